// The settings of a call as plain C++ values. Generated from vmoe_runtime/settings.py by
//
//   python tools/cpp_headers.py
// clang-format off
#ifndef VMOE_SETTINGS_HPP_
#define VMOE_SETTINGS_HPP_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "vmoe/settings.h"

namespace vmoe {

// The setting of one call: a profile, and values that replace values of that profile. If all fields are empty, the
// engine's profile applies. The comments of vmoe_setting list the kinds of models that each value is for.
struct Setting {
  std::optional<std::string> profile;
  std::optional<double> capacity_ratio; // capacity ratio
  std::optional<int64_t> k; // experts per token
  std::optional<bool> bpr; // Batch Priority Routing
  std::optional<bool> pool; // one pool of slots per group
  std::optional<int64_t> max_experts; // most experts per group
  std::optional<int64_t> merge; // tokens merged per block
};

// One complete set of settings for a model. Fields that the model's routing kind does not use are 0 or false.
struct Profile {
  std::string name;
  double effective_ratio = 0; // the capacity ratio C after rounding to whole slots
  std::vector<int64_t> slots; // for each MoE layer, the slots per expert and group
  int32_t set = 0; // VMOE_SET_* bits of the settings that the model's routing kind has
  double capacity_ratio = {}; // capacity ratio
  int64_t k = {}; // experts per token
  bool bpr = {}; // Batch Priority Routing
  bool pool = {}; // one pool of slots per group
  int64_t max_experts = {}; // most experts per group
  int64_t merge = {}; // tokens merged per block

  // Returns these values as a setting without a profile name, so that a call has no name to parse.
  Setting setting() const {
    Setting setting;
    if ((set & VMOE_SET_CAPACITY_RATIO) != 0) setting.capacity_ratio = capacity_ratio;
    if ((set & VMOE_SET_K) != 0) setting.k = k;
    if ((set & VMOE_SET_BPR) != 0) setting.bpr = bpr;
    if ((set & VMOE_SET_POOL) != 0) setting.pool = pool;
    if ((set & VMOE_SET_MAX_EXPERTS) != 0) setting.max_experts = max_experts;
    if ((set & VMOE_SET_MERGE) != 0) setting.merge = merge;
    return setting;
  }
};

namespace internal {

// Converts a setting. The result points into `setting`.
inline vmoe_setting c_setting(const Setting& setting) {
  vmoe_setting c = VMOE_SETTING_INIT;
  c.profile = setting.profile ? setting.profile->c_str() : nullptr;
  // The C API would ignore everything after a zero byte. A name with a zero byte is therefore replaced by a name that
  // the C API refuses.
  if (setting.profile && setting.profile->find('\0') != std::string::npos) c.profile = "a name with a zero byte";
  const auto set = [&c](const auto& value, int32_t flag, auto& field) {
    if (!value) return;
    c.set |= flag;
    field = *value;
  };
  set(setting.capacity_ratio, VMOE_SET_CAPACITY_RATIO, c.capacity_ratio);
  set(setting.k, VMOE_SET_K, c.k);
  set(setting.bpr, VMOE_SET_BPR, c.bpr);
  set(setting.pool, VMOE_SET_POOL, c.pool);
  set(setting.max_experts, VMOE_SET_MAX_EXPERTS, c.max_experts);
  set(setting.merge, VMOE_SET_MERGE, c.merge);
  return c;
}

inline Profile profile(const vmoe_profile& c, std::vector<int64_t> slots) {
  Profile profile;
  profile.name = c.name;
  profile.effective_ratio = c.effective_ratio;
  profile.slots = std::move(slots);
  profile.set = c.set;
  profile.capacity_ratio = c.capacity_ratio;
  profile.k = c.k;
  profile.bpr = c.bpr != 0;
  profile.pool = c.pool != 0;
  profile.max_experts = c.max_experts;
  profile.merge = c.merge;
  return profile;
}

}  // namespace internal

}  // namespace vmoe

#endif  // VMOE_SETTINGS_HPP_
