// Sessions that engines in one process share. Engines share a session if they load the same bundle with the same
// options.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "sdk/session.h"

namespace vmoe::sdk {

// Returns the session with this key if an engine still uses it. Otherwise, calls `load` and returns the session that
// `load` creates. If several threads request the same session at once, one thread loads it and the others wait.
std::shared_ptr<Session> find_or_load_session(const std::string& key,
                                              const std::function<std::shared_ptr<Session>()>& load);

}  // namespace vmoe::sdk
