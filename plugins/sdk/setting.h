// Functions that depend only on the declarations of a call's settings. A declaration lists the routing kinds that have
// the setting, its default, its range and its part in profile names. The effect of a setting is implemented in
// routing_rules.cc and in the kernels.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "vmoe/engine.h"

namespace vmoe::sdk {

// Returns a setting in which every field has its default value, and no bit of `set` is set.
vmoe_setting default_setting();

// Returns a copy of `base` in which each field that `changes` sets has the value from `changes`.
vmoe_setting replaced(vmoe_setting base, const vmoe_setting& changes);

// Throws VMOE_ROUTING_ERROR if a value of `setting` is outside the range that holds for every model.
void check_ranges(const vmoe_setting& setting);

// Returns a setting's systematic name. The name has a part for each value that is not the default, such as "c0.3-k1"
// or "c1.05-k2-vanilla-pool-m4-r8". The name always has at least one part. It is "c1.0" if there is only a ratio, and
// "r0" if there is only merging.
std::string profile_name(const vmoe_setting& setting);

// Parses a systematic name. The result sets only the values that the name contains. Returns none if `name` is not a
// systematic name.
std::optional<vmoe_setting> parse_profile_name(std::string_view name);

// Returns the VMOE_SET_* bits of the settings that have no default and exist for at least one of the given routing
// kinds. `kinds` is a set of kOf* bits.
int needed_settings(unsigned kinds);

}  // namespace vmoe::sdk
