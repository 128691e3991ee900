#include "sdk/profile.h"

#include <algorithm>
#include <limits>

#include "sdk/decimal.h"
#include "sdk/error.h"
#include "sdk/generated/bundle_rules.h"
#include "sdk/generated/setting_rows.h"

namespace vmoe::sdk {

namespace {

int64_t narrow(WideInt slots) {
  if (slots > std::numeric_limits<int64_t>::max()) {
    fail(VMOE_ROUTING_ERROR, "the setting gives more slots per expert than 64 bits can count");
  }
  return static_cast<int64_t>(slots);
}

}  // namespace

std::optional<Profile> RoutingRules::named_profile(std::string_view name) const {
  if (name.size() > kMaxName) return std::nullopt;
  const auto setting = parse_profile_name(name);
  // A name says all that the kind needs, and nothing that only another kind needs.
  if (!setting || ((setting->set ^ kind.settings()) & needed_settings(~0U)) != 0) return std::nullopt;
  return profile(*setting);
}

const char* RoutingRules::name_examples() const {
  if ((kind.settings() & VMOE_SET_CAPACITY_RATIO) == 0) {
    return "any name like r8 works, which merges 8 tokens of an image in each block";
  }
  return (kind.settings() & VMOE_SET_K) != 0 ? "any name like c0.3-k1, c0.3-k1-vanilla or c0.3-k1-pool-m4 works"
                                             : "any name like c1.0 works";
}

Profile RoutingRules::profile(const vmoe_setting& setting) const {
  kind.check_settings(setting.set);
  check_ranges(setting);
  const vmoe_setting requested = replaced(default_setting(), setting);
  Profile profile;
  profile.values.set = kind.settings();
  for_each_setting([&](const SettingRow& row, auto field, auto) {
    if ((profile.values.set & row.bit) != 0) profile.values.*field = requested.*field;
  });
  vmoe_setting named = profile.values;
  if ((profile.values.set & VMOE_SET_K) != 0) check_k(profile.values.k);
  if ((profile.values.set & VMOE_SET_MAX_EXPERTS) != 0) {
    limit_experts(profile.values.max_experts);
    if (profile.values.max_experts == num_experts()) named.max_experts = default_setting().max_experts;
  }
  if ((profile.values.set & VMOE_SET_CAPACITY_RATIO) != 0) count_slots(profile);
  profile.name = profile_name(named);
  return profile;
}

void RoutingRules::check_k(int64_t k) const {
  const int64_t most = *std::min_element(experts.begin(), experts.end()) / kind.ensemble_size;
  if (k >= 1 && k <= most) return;
  fail(VMOE_ROUTING_ERROR, "k must be between 1 and the number of experts",
       kind.ensemble_size == 1 ? "" : " of a member", ", ", most, ", not ", k);
}

void RoutingRules::limit_experts(int64_t& max_experts) const {
  if (max_experts < num_experts() && group_tokens > kMaxMassTokens) {
    fail(VMOE_ROUTING_ERROR, "max_experts needs groups of at most ", in_thousands(kMaxMassTokens),
         " tokens, and these have ", in_thousands(group_tokens));
  }
  max_experts = std::min(max_experts, num_experts());
}

void RoutingRules::count_slots(Profile& profile) const {
  const double ratio = profile.values.capacity_ratio;
  const int64_t k = std::max<int64_t>(profile.values.k, 1);
  if (ratio > static_cast<double>(num_experts())) {
    fail(VMOE_ROUTING_ERROR, "the capacity ratio ", rounded(ratio), " is larger than the number of experts, ",
         num_experts(), "; from ", rounded(static_cast<double>(num_experts()) / static_cast<double>(k)),
         " on no token is dropped");
  }
  const WideInt pairs = static_cast<WideInt>(group_tokens) * k;
  WideInt all_slots = 0;
  for (const int64_t count : experts) {
    profile.slots.push_back(slots(pairs, count, ratio));
    all_slots += static_cast<WideInt>(profile.slots.back()) * count;
  }
  const WideInt all_pairs = pairs * static_cast<WideInt>(experts.size());
  profile.effective_ratio = static_cast<double>(all_slots) / static_cast<double>(all_pairs);
}

int64_t RoutingRules::slots(WideInt pairs, int64_t count, double ratio) const {
  const double most = std::min(ratio, static_cast<double>(count));
  const WideInt slots = compute_slots(pairs, count, most, rounding, capacity_multiple_of);
  // An expert can't get more than all pairs; a multiple far above would only cost memory.
  if (slots > std::max<WideInt>(pairs, kSmallGroup)) {
    fail(VMOE_ROUTING_ERROR, "rounding up to a multiple of ", capacity_multiple_of, " gives ", narrow(slots),
         " slots per expert, where a group has ", static_cast<int64_t>(pairs), " token-expert pairs");
  }
  return narrow(slots);
}

}  // namespace vmoe::sdk
