// Profiles, which are the named routing settings of a model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "vmoe/settings.h"

namespace vmoe::sdk {

// A complete setting that a model supports. Values that the model's routing kind does not use are 0, and their bits in
// `values.set` are 0.
struct Profile {
  // Such as "c0.3-k1-vanilla" or "c0.2-k1-pool-m4"; "c1.0" for expert choice; "r8" if the model only merges tokens.
  std::string name;
  double effective_ratio = 0;               // C after rounding to whole slots
  vmoe_setting values = VMOE_SETTING_INIT;  // values.max_experts is E if there is no limit
  std::vector<int64_t> slots;               // for each MoE layer, the slots per expert and group
};

}  // namespace vmoe::sdk
