// The row type of generated/setting_rows.h. Each row in that file declares one setting of a call.
#pragma once

#include <cstdint>

namespace vmoe::sdk {

enum class SettingType { kRatio, kWhole, kFlag };

struct SettingRow {
  const char* name;    // name of the graph input, also used in messages
  const char* stored;  // the key in manifests
  const char* suffix;  // text before the value in profile names; for a flag, which shows no value, the whole text
  SettingType type;
  int bit;         // VMOE_SET_*
  unsigned kinds;  // kOf* bits
  bool is_needed;  // whether every profile must set this setting, because it has no default
  int64_t fallback;
  int64_t least, most;  // both 0 if the range depends on the model
  bool merging;         // whether the setting exists only for models whose blocks can merge tokens
};

}  // namespace vmoe::sdk
