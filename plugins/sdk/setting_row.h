// A row of generated/setting_rows.h: what is declared of a setting of a call.
#pragma once

#include <cstdint>

namespace vmoe::sdk {

enum class SettingType { kRatio, kWhole, kFlag };

struct SettingRow {
  const char* name;    // as an input of graphs and for people
  const char* stored;  // its key in manifests
  const char* suffix;  // what names of profiles have before its value; of a flag, the whole part
  SettingType type;
  int bit;         // VMOE_SET_*
  unsigned kinds;  // kOf* together
  bool is_needed;  // a profile must say it: there is no default
  int64_t fallback;
  int64_t least, most;  // both 0 if the range depends on the model
  bool merging;         // only for models whose blocks can merge tokens
};

}  // namespace vmoe::sdk
