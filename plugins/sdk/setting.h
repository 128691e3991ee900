// The declarations of a call's settings, and everything that follows from them alone: which routing kinds have a
// setting, its default and range, and the names of profiles. The effect of a setting is in profile.cc and in the
// kernels.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "vmoe/engine.h"

namespace vmoe::sdk {

enum class SettingType { kRatio, kWhole, kFlag };

struct SettingRow {
  const char* name;    // the graph input, and the name in messages
  const char* stored;  // the key in manifests
  const char* suffix;  // the text before the value in profile names; for a flag, the whole part
  SettingType type;
  int bit;         // VMOE_SET_*
  unsigned kinds;  // kOf* bits
  bool is_needed;  // every profile must set it: there is no default
  int64_t fallback;
  int64_t least, most;  // both 0 if the range depends on the model
  bool merging;         // only for models whose blocks can merge tokens
};

// Returns a setting with every field at its default and nothing in `set`.
vmoe_setting default_setting();

// Returns `base` with the fields that `changes` sets replaced.
vmoe_setting replaced(vmoe_setting base, const vmoe_setting& changes);

// Throws VMOE_ROUTING_ERROR if a value is outside the range that holds for all models.
void check_ranges(const vmoe_setting& setting);

// Returns the systematic name of a setting, which has a part for each value that is not the default, and at least one
// part: "c0.3-k1", "c1.05-k2-vanilla-pool-m4-r8"; "c1.0" for a ratio alone, and "r0" for merging alone.
std::string profile_name(const vmoe_setting& setting);

// Parses a systematic name. The result sets only the values in the name; none if it is not a systematic name.
std::optional<vmoe_setting> parse_profile_name(std::string_view name);

// Returns the VMOE_SET_* bits of the settings without a default for the kinds in `kinds`, a set of kOf* bits.
int needed_settings(unsigned kinds);

}  // namespace vmoe::sdk
