// The routing rules of a model, which turn the setting of a call into a profile and its slots.
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

// Sums over the layers of a hostile manifest, and sizes of hostile batches, may exceed 64 bits.
using WideInt = __int128;

// How a model routes. Turns a requested setting into a profile.
struct RoutingRules {
  vmoe_routing_kind kind = VMOE_DENSE;
  int64_t ensemble_size = 1;     // M, the members of an ensemble (E3), with E / M experts each
  int64_t slots_per_expert = 0;  // P, Soft MoE only
  int64_t image_tokens = 0;      // T, if blocks can merge tokens; else 0
  std::vector<int64_t> experts;  // E of each MoE layer
  int64_t group_tokens = 0;      // S; 0 for a dense ViT
  Rounding rounding = Rounding::kCeil;
  int64_t capacity_multiple_of = 1;

  // Returns the VMOE_SET_* bits that a call may set.
  int settings() const;

  // Returns E, the largest if layers differ.
  int64_t num_experts() const { return experts.empty() ? 0 : *std::max_element(experts.begin(), experts.end()); }

  // Returns the profile of a setting; fields that it doesn't set have their defaults. Throws VMOE_ROUTING_ERROR if the
  // model does not support the setting.
  Profile profile(const vmoe_setting& setting) const;

  // Returns the profile with this systematic name; none if this kind has no such name. Throws the errors of `profile`.
  std::optional<Profile> named_profile(std::string_view name) const;

  // Returns a message with examples of this kind's names, such as "any name like c1.0 works".
  const char* name_examples() const;

 private:
  // These throw VMOE_ROUTING_ERROR for settings (VMOE_SET_* bits) that the model doesn't have, and for values that it
  // does not support.
  void check_settings(int set) const;
  void check_k(int64_t k) const;
  void limit_experts(int64_t& max_experts) const;
  void count_slots(Profile& profile) const;

  // Returns the slots per expert of a layer with `count` experts. The ratio is limited to `count`, at which every
  // expert has a slot for every pair and no token is dropped.
  int64_t slots(int64_t pairs, int64_t count, double ratio) const;
};

}  // namespace vmoe::sdk
