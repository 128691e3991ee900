// Functions that depend only on the declarations of a call's settings, which list the routing kinds that have a
// setting, its default, its range and its part in profile names. The effect of a setting is in routing_rules.cc and in
// the kernels.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "vmoe/engine.h"

namespace vmoe::sdk {

// Returns a setting in which every field has its default value, and no bit of `set` is set.
vmoe_setting default_setting();

// Returns `base`, but with the values from `changes` for all fields that `changes` sets.
vmoe_setting replaced(vmoe_setting base, const vmoe_setting& changes);

// Throws VMOE_ROUTING_ERROR if a value of `setting` is outside its range for all models.
void check_ranges(const vmoe_setting& setting);

// Returns the systematic name of a setting. The name has a part for each value that is not the default, such as
// "c0.3-k1" or "c1.05-k2-vanilla-pool-m4-r8". It always has at least one part: "c1.0" if there is only a ratio, and
// "r0" if there is only merging.
std::string profile_name(const vmoe_setting& setting);

// Parses a systematic name. The result sets only the values that the name contains. Returns none if `name` is not a
// systematic name.
std::optional<vmoe_setting> parse_profile_name(std::string_view name);

// Returns the VMOE_SET_* bits of the settings that have no default and that one of the routing kinds in `kinds` has.
// `kinds` is a set of kOf* bits.
int needed_settings(unsigned kinds);

}  // namespace vmoe::sdk
