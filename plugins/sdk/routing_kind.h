// Routing kinds: what a call may set in each, and the sentence for what it may not. The one place that tells them
// apart; what differs elsewhere follows from `settings`.
#ifndef VMOE_SDK_ROUTING_KIND_H_
#define VMOE_SDK_ROUTING_KIND_H_

#include <cstdint>

#include "sdk/generated/bundle_rules.h"
#include "vmoe/engine.h"

namespace vmoe::sdk {

// What a call may set: its bit, and its name as an input of graphs and for people.
struct SettingField {
  int bit;  // VMOE_SET_*
  const char* name;
};

inline constexpr SettingField kSettingFields[] = {{VMOE_SET_CAPACITY_RATIO, kSettingNames[0]},
                                                  {VMOE_SET_K, kSettingNames[1]},
                                                  {VMOE_SET_BPR, kSettingNames[2]},
                                                  {VMOE_SET_POOL, kSettingNames[3]},
                                                  {VMOE_SET_MAX_EXPERTS, kSettingNames[4]},
                                                  {VMOE_SET_MERGE, kSettingNames[5]}};

inline constexpr int kRoutingSettings =
    VMOE_SET_CAPACITY_RATIO | VMOE_SET_K | VMOE_SET_BPR | VMOE_SET_POOL | VMOE_SET_MAX_EXPERTS;
inline constexpr int kAllSettings = kRoutingSettings | VMOE_SET_MERGE;
inline constexpr int kPolicies = VMOE_SET_POOL | VMOE_SET_MAX_EXPERTS;

// How a model routes.
struct RoutingKind {
  vmoe_routing_kind code = VMOE_DENSE;
  int64_t ensemble_size = 1;     // M, the members of an E3, which have E / M experts each
  int64_t slots_per_expert = 0;  // P, Soft MoE only
  int64_t image_tokens = 0;      // T, where blocks can merge tokens; else 0

  // What a call may set, VMOE_SET_* together.
  int settings() const;

  // Refuses settings, VMOE_SET_* together, that there are none of. Throws VMOE_ROUTING_ERROR.
  void check_settings(int set) const;
};

}  // namespace vmoe::sdk

#endif  // VMOE_SDK_ROUTING_KIND_H_
