// Measures how long calls take on this machine, at each profile that elastic capacity chooses from.
#pragma once

#include <string>
#include <vector>
#include <vmoe/batcher.hpp>

#include "options.h"

// Sets the levels and the plan of `batching`. Returns notes for the user, one line each. Throws UsageError if the
// bundle has no profiles, or if the model does not support a requested one. Throws std::runtime_error if the engine
// fails.
std::vector<std::string> choose_levels(const Options& options, const vmoe::Engine& engine,
                                       vmoe::BatcherOptions& batching);
