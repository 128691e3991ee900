// The profiles that elastic capacity chooses between, timed on this machine.
#pragma once

#include <string>
#include <vector>
#include <vmoe/batcher.hpp>

#include "options.h"

// Sets the levels and the plan of `batching`; returns notes about them, a line each. Throws UsageError if the bundle
// does not have the profiles, std::runtime_error if it can't be run.
std::vector<std::string> choose_levels(const Options& options, const vmoe::Engine& engine,
                                       vmoe::BatcherOptions& batching);
