// Measures how long calls take on this machine with each profile from which elastic capacity can choose.
#pragma once

#include <string>
#include <vector>
#include <vmoe/batcher.hpp>

#include "options.h"

// Sets the levels and the plan in `batching`. Returns notes for the user, one line each. Throws UsageError if the
// bundle has no profiles, or if the model does not support a requested profile. Throws std::runtime_error if the
// engine fails.
std::vector<std::string> choose_levels(const Options& options, const vmoe::Engine& engine,
                                       vmoe::BatcherOptions& batching);
