// Profiles, which are the named routing settings of a model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "vmoe/settings.h"

namespace vmoe::sdk {

// A complete setting that a model supports. If the model's routing kind does not use a value, the value is 0, and its
// bit in `values.set` is 0.
struct Profile {
  // A name such as "c0.3-k1-vanilla" or "c0.2-k1-pool-m4". Expert choice has names such as "c1.0". Models that only
  // merge tokens have names such as "r8".
  std::string name;
  double effective_ratio = 0;               // the capacity ratio C after rounding to whole slots
  vmoe_setting values = VMOE_SETTING_INIT;  // values.max_experts is E if there is no limit
  std::vector<int64_t> slots;               // for each MoE layer, the number of slots per expert and group
};

}  // namespace vmoe::sdk
