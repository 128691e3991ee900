// Times the profiles that elastic capacity chooses between, on this machine.
#pragma once

#include <string>
#include <vector>
#include <vmoe/batcher.hpp>

#include "options.h"

// Sets the levels and the plan of `batching`. Returns notes for the user, one line each. Throws UsageError if the
// bundle lacks a profile, and std::runtime_error if the engine fails.
std::vector<std::string> choose_levels(const Options& options, const vmoe::Engine& engine,
                                       vmoe::BatcherOptions& batching);
