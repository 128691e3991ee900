// Profiles: named routing settings of one model, and the rule that turns a setting into slots per expert.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sdk/capacity.h"
#include "sdk/setting.h"

namespace vmoe::sdk {

// Sums over the layers of a hostile manifest, and bytes of hostile batches, may pass 64 bits.
using WideInt = __int128;

// A complete setting that a model can be run with. What its kind doesn't have is 0, and not in `values.set`.
struct Profile {
  std::string
      name;  // such as "c0.3-k1-vanilla" or "c0.2-k1-pool-m4"; "c1.0" with experts choice; "r8" of merging alone
  double effective_ratio = 0;               // C after rounding to whole slots
  vmoe_setting values = VMOE_SETTING_INIT;  // max_experts is E if there is no limit
  std::vector<int64_t> slots;               // slots per expert and group, of each MoE layer
};

// How a model routes, and what turns a requested setting into a profile.
struct RoutingRules {
  vmoe_routing_kind kind = VMOE_DENSE;
  int64_t ensemble_size = 1;     // M, the members of an E3, which have E / M experts each
  int64_t slots_per_expert = 0;  // P, Soft MoE only
  int64_t image_tokens = 0;      // T, if blocks can merge tokens; else 0
  std::vector<int64_t> experts;  // E of each MoE layer
  int64_t group_tokens = 0;      // S; 0 for a dense ViT
  Rounding rounding = Rounding::kCeil;
  int64_t capacity_multiple_of = 1;

  // What a call may set, VMOE_SET_* together.
  int settings() const;

  // E; the largest one where the layers differ.
  int64_t num_experts() const { return experts.empty() ? 0 : *std::max_element(experts.begin(), experts.end()); }

  // The profile of a setting; what it doesn't set has its default. Throws VMOE_ROUTING_ERROR: a setting that this model
  // can't be run with.
  Profile profile(const vmoe_setting& setting) const;

  // The profile that a systematic name stands for, or nothing if it isn't one of this kind's. Throws as above.
  std::optional<Profile> named_profile(std::string_view name) const;

  // How this kind's names are made, for people: "any name like c1.0 works".
  const char* name_examples() const;

 private:
  // Throw VMOE_ROUTING_ERROR for settings, VMOE_SET_* together, that it doesn't have, and for values that it can't be
  // run with.
  void check_settings(int set) const;
  void check_k(int64_t k) const;
  void limit_experts(int64_t& max_experts) const;
  void count_slots(Profile& profile) const;

  // Slots of each of so many experts of a layer. From a ratio of their number on, which drops nothing, there are no
  // more.
  int64_t slots(int64_t pairs, int64_t count, double ratio) const;
};

}  // namespace vmoe::sdk
