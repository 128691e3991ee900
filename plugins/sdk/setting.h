// What follows for all settings alike from their rows: which a kind has, their defaults and ranges, and the names of
// profiles. What a setting does is in profile.cc and in the kernels.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "vmoe/engine.h"

namespace vmoe::sdk {

// Every field at its default, with nothing in `set`.
vmoe_setting default_setting();

// Those fields of `base` that `changes` sets are replaced.
vmoe_setting replaced(vmoe_setting base, const vmoe_setting& changes);

// Throws VMOE_ROUTING_ERROR for a value that no model could run with.
void check_ranges(const vmoe_setting& setting);

// The systematic name of what a setting sets: a part for each value that is not the default, and at least one.
// "c0.3-k1", "c1.05-k2-vanilla-pool-m4-r8"; "c1.0" of a ratio alone, and "r0" of merging alone.
std::string profile_name(const vmoe_setting& setting);

// The setting that a systematic name stands for, which sets just what it says; or nothing if it is not one.
std::optional<vmoe_setting> parse_profile_name(std::string_view name);

// VMOE_SET_* of the settings without a default that models of kinds, kOf* together, have.
int needed_settings(unsigned kinds);

}  // namespace vmoe::sdk
