// Profiles: named routing settings of one model, and the rule that turns a setting into slots per expert.
#ifndef VMOE_SDK_PROFILE_H_
#define VMOE_SDK_PROFILE_H_

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sdk/capacity.h"
#include "sdk/routing_kind.h"

namespace vmoe::sdk {

inline constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();  // of experts

// What a call requests.
struct RoutingSetting {
  int given = 0;                   // VMOE_SET_* of what is requested; the rest is official
  double capacity_ratio = 0;       // C
  int64_t k = 0;                   // experts per token
  bool bpr = true;                 // Batch Priority Routing, or vanilla order
  bool pool = false;               // the slots of a group are one pool for all experts
  int64_t max_experts = kNoLimit;  // experts that a group may use
  int64_t merge = 0;               // tokens that each block merges
};

// A setting that a model can be run with. What its kind doesn't have is 0.
struct Profile {
  std::string
      name;  // such as "c0.3-k1-vanilla" or "c0.2-k1-pool-m4"; "c1.0" with experts choice; "r8" of merging alone
  double capacity_ratio = 0;   // C as it was requested
  double effective_ratio = 0;  // C after rounding to whole slots
  int64_t k = 0;               // experts per token
  bool bpr = false;            // Batch Priority Routing, or vanilla order
  bool pool = false;           // the slots of a group are one pool for all experts
  int64_t max_experts = 0;     // experts that a group may use; E is no limit
  int64_t merge = 0;           // tokens that each block merges
  std::vector<int64_t> slots;  // slots per expert and group, of each MoE layer
};

// The systematic name of what a setting gives: "c0.3-k1", "c1.05-k2-vanilla-pool-m4-r8"; "c1.0" of a ratio alone, and
// "r8" of merging alone.
std::string profile_name(const RoutingSetting& setting);

// The setting that a systematic name stands for, with just what it says as given; or nothing if it is not one.
std::optional<RoutingSetting> parse_profile_name(std::string_view name);

// What turns a requested setting into a profile.
struct RoutingRules {
  RoutingKind kind;
  std::vector<int64_t> experts;  // E of each MoE layer
  int64_t group_tokens = 0;      // S
  Rounding rounding = Rounding::kCeil;
  int64_t capacity_multiple_of = 1;

  // E; the largest one where the layers differ.
  int64_t num_experts() const { return experts.empty() ? 0 : *std::max_element(experts.begin(), experts.end()); }

  // Throws VMOE_ROUTING_ERROR: a setting that this model can't be run with.
  Profile profile(const RoutingSetting& setting) const;

  // The profile that a systematic name stands for, or nothing where it isn't one of this kind's. Throws as above.
  std::optional<Profile> named_profile(std::string_view name) const;

  // How this kind's names are made, for people: "any name like c1.0 works".
  const char* name_examples() const;

  // A profile with the fields that a setting replaces in it. Throws as above.
  Profile replaced(const Profile& base, const vmoe_setting& setting) const;

  // The setting that gives a profile.
  RoutingSetting setting_of(const Profile& profile) const;

 private:
  // Slots of each of so many experts of a layer. From a ratio of their number on, which drops nothing, there are no
  // more.
  int64_t slots(WideInt pairs, int64_t count, double ratio) const;
};

}  // namespace vmoe::sdk

#endif  // VMOE_SDK_PROFILE_H_
