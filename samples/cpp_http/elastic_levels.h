// The settings that the service chooses between, timed on this machine.
#ifndef VMOE_HTTP_ELASTIC_LEVELS_H_
#define VMOE_HTTP_ELASTIC_LEVELS_H_

#include <string>
#include <vector>
#include <vmoe/batcher.hpp>

#include "options.h"

// Sets the levels and the plan of `batching`, and returns what is to be said of them, a sentence each. Throws
// UsageError where the bundle has no such settings, std::runtime_error where it can't be run.
std::vector<std::string> choose_levels(const Options& options, const vmoe::Engine& engine,
                                       vmoe::BatcherOptions& batching);

#endif  // VMOE_HTTP_ELASTIC_LEVELS_H_
