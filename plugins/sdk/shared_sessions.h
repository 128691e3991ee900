// Engines of one process that load the same bundle in the same way share one session.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "sdk/session.h"

namespace vmoe::sdk {

// The session that somebody still holds under that key, or else what `load` makes; threads that want the same session
// wait for its load.
std::shared_ptr<Session> find_or_load_session(const std::string& key,
                                              const std::function<std::shared_ptr<Session>()>& load);

}  // namespace vmoe::sdk
