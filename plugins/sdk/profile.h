// Profiles: named routing settings of one model, and the rule that turns a setting into places per expert.
#ifndef VMOE_SDK_PROFILE_H_
#define VMOE_SDK_PROFILE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sdk/capacity.h"

namespace vmoe::sdk {

struct Profile {
  std::string name;               // such as "c0.3-k1" or "c0.3-k1-vanilla"
  double capacity_ratio = 0;      // C as it was asked for
  double effective_ratio = 0;     // C after rounding to whole places
  int64_t k = 0;                  // experts per token
  bool bpr = true;                // Batch Priority Routing, or vanilla order
  std::vector<int64_t> capacity;  // places per expert and group, of each MoE layer
};

// The systematic name of a setting: "c0.3-k1", "c1.05-k2-vanilla".
std::string profile_name(double capacity_ratio, int64_t k, bool bpr);

struct NamedSetting {
  double capacity_ratio;
  int64_t k;
  bool bpr;
};

// The setting that a systematic name stands for, or nothing if it is not one.
std::optional<NamedSetting> parse_profile_name(std::string_view name);

// What turns a requested setting into a profile.
struct RoutingRules {
  int64_t num_experts = 0;   // E
  int64_t group_tokens = 0;  // S
  size_t num_moe_layers = 0;
  Rounding rounding = Rounding::kCeil;
  int64_t capacity_multiple_of = 1;
  int64_t ensemble_size = 1;  // M, the members of an E3, which have E / M experts each

  // Throws VMOE_ROUTING_ERROR: a setting that this model can't be run with.
  Profile profile(double capacity_ratio, int64_t k, bool bpr) const;
};

}  // namespace vmoe::sdk

#endif  // VMOE_SDK_PROFILE_H_
