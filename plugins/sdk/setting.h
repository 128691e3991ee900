// Functions that depend only on the declarations of a call's settings: which routing kinds have a setting, its default
// and range, and the names of profiles. The effect of a setting is in routing_rules.cc and in the kernels.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "vmoe/engine.h"

namespace vmoe::sdk {

// Returns a setting with every field at its default and nothing in `set`.
vmoe_setting default_setting();

// Returns `base` with the values of all fields that `changes` sets.
vmoe_setting replaced(vmoe_setting base, const vmoe_setting& changes);

// Throws VMOE_ROUTING_ERROR if a value is outside the range that holds for all models.
void check_ranges(const vmoe_setting& setting);

// Returns the systematic name of a setting. The name has a part for each value that is not the default, and at least
// one part: "c0.3-k1", "c1.05-k2-vanilla-pool-m4-r8"; "c1.0" for a ratio alone, and "r0" for merging alone.
std::string profile_name(const vmoe_setting& setting);

// Parses a systematic name. The result sets only the values in the name. Returns none if `name` is not a systematic
// name.
std::optional<vmoe_setting> parse_profile_name(std::string_view name);

// Returns the VMOE_SET_* bits of the settings that have no default, for the routing kinds in `kinds`, a set of kOf*
// bits.
int needed_settings(unsigned kinds);

}  // namespace vmoe::sdk
