// A model's routing rules. They turn a call's setting into a profile and its slots.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "sdk/capacity.h"
#include "sdk/profile.h"
#include "sdk/setting.h"
#include "vmoe/routing_kinds.h"

namespace vmoe::sdk {

// An integer with more than 64 bits. Attackers can choose manifests and batches. Sums over a manifest's layers and
// batch sizes may therefore exceed 64 bits.
using WideInt = __int128;

// A model's routing, and the rules that turn a requested setting into a profile.
struct RoutingRules {
  vmoe_routing_kind kind = VMOE_DENSE;
  int64_t ensemble_size = 1;     // M, the number of ensemble members (E3); each member has E / M experts
  int64_t slots_per_expert = 0;  // P, Soft MoE only
  int64_t image_tokens = 0;      // T if blocks can merge tokens; otherwise 0
  std::vector<int64_t> experts;  // E of each MoE layer
  int64_t group_tokens = 0;      // S; 0 for a dense ViT
  Rounding rounding = Rounding::kCeil;
  int64_t capacity_multiple_of = 1;

  // Returns the VMOE_SET_* bits of the settings that a call may set.
  int settings() const;

  // Returns E, the largest number of experts in any layer.
  int64_t num_experts() const { return experts.empty() ? 0 : *std::max_element(experts.begin(), experts.end()); }

  // Returns the profile for a setting. Values that `setting` does not set have their defaults. Throws
  // VMOE_ROUTING_ERROR if the model does not support the setting.
  Profile profile(const vmoe_setting& setting) const;

  // Returns the profile with the systematic name `name`. Returns none if `name` is not a systematic name for this
  // routing kind. Throws VMOE_ROUTING_ERROR if the model does not support the setting that the name stands for.
  std::optional<Profile> named_profile(std::string_view name) const;

  // Returns a message with examples of this routing kind's profile names, such as "any name like c1.0 works".
  const char* name_examples() const;

 private:
  // These functions throw VMOE_ROUTING_ERROR for settings (VMOE_SET_* bits) that the model doesn't have. They also
  // throw it for values that the model does not support.
  void check_settings(int set) const;
  void check_k(int64_t k) const;
  void limit_experts(int64_t& max_experts) const;
  void count_slots(Profile& profile) const;

  // Returns the number of slots for each expert in a layer with `count` experts. A ratio above `count` is reduced to
  // `count`. With a ratio of `count`, every expert has a slot for every pair, so no token is dropped.
  int64_t slots(int64_t pairs, int64_t count, double ratio) const;
};

}  // namespace vmoe::sdk
