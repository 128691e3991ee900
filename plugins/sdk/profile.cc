#include "sdk/profile.h"

#include <algorithm>
#include <limits>
#include <regex>

#include "sdk/decimal.h"
#include "sdk/error.h"
#include "sdk/generated/bundle_rules.h"

namespace vmoe::sdk {

namespace {

// "131,072".
std::string in_thousands(int64_t number) {
  std::string text = std::to_string(number);
  for (size_t i = text.size(); i > 3; i -= 3) text.insert(i - 3, ",");
  return text;
}

int64_t narrow(WideInt slots) {
  if (slots > std::numeric_limits<int64_t>::max()) {
    fail(VMOE_ROUTING_ERROR, "the setting gives more slots per expert than 64 bits can count");
  }
  return static_cast<int64_t>(slots);
}

}  // namespace

std::string profile_name(const RoutingSetting& setting) {
  if ((setting.given & VMOE_SET_CAPACITY_RATIO) == 0) return "r" + std::to_string(setting.merge);
  const std::string merged = setting.merge > 0 ? "-r" + std::to_string(setting.merge) : "";
  std::string ratio = shortest(setting.capacity_ratio);
  if ((setting.given & VMOE_SET_K) == 0) return "c" + ratio + merged;
  if (ratio.size() > 2 && ratio.compare(ratio.size() - 2, 2, ".0") == 0) ratio.resize(ratio.size() - 2);
  std::string name = "c" + ratio + "-k" + std::to_string(setting.k);
  if (!setting.bpr) name += "-vanilla";
  if (setting.pool) name += "-pool";
  if (setting.max_experts != kNoLimit) name += "-m" + std::to_string(setting.max_experts);
  return name + merged;
}

std::optional<RoutingSetting> parse_profile_name(std::string_view name) {
  // Its groups: ratio, k, vanilla, pool, limit of experts, merge; merge alone.
  static const std::regex pattern(kProfilePattern);
  std::smatch parts;
  const std::string text(name);
  RoutingSetting setting;
  if (name.size() > kMaxName) return std::nullopt;  // which could exhaust the stack
  if (!std::regex_match(text, parts, pattern)) return std::nullopt;
  const int merge = parts[7].matched ? 7 : 6;
  if (parts[merge].matched) {
    setting.given = VMOE_SET_MERGE;
    setting.merge = std::stol(parts.str(merge));
  }
  if (merge == 7) return setting;
  setting.given |= VMOE_SET_CAPACITY_RATIO;
  if (parts[2].matched) {
    setting.given |= VMOE_SET_K | VMOE_SET_BPR;
    setting.k = std::stol(parts.str(2));
    setting.bpr = !parts[3].matched;
    setting.pool = parts[4].matched;
    if (setting.pool) setting.given |= VMOE_SET_POOL;
    if (parts[5].matched) {
      setting.given |= VMOE_SET_MAX_EXPERTS;
      setting.max_experts = std::stol(parts.str(5));
    }
  }
  setting.capacity_ratio = parse_decimal(parts.str(1));
  return setting;
}

std::optional<Profile> RoutingRules::named_profile(std::string_view name) const {
  const auto setting = parse_profile_name(name);
  constexpr int kNeeded = VMOE_SET_CAPACITY_RATIO | VMOE_SET_K;
  if (!setting || ((kind.settings() ^ setting->given) & kNeeded) != 0) return std::nullopt;
  return profile(*setting);
}

const char* RoutingRules::name_examples() const {
  if ((kind.settings() & VMOE_SET_CAPACITY_RATIO) == 0) return "any name like r8 works";
  return (kind.settings() & VMOE_SET_K) != 0 ? "any name like c0.3-k1, c0.3-k1-vanilla or c0.3-k1-pool-m4 works"
                                             : "any name like c1.0 works";
}

RoutingSetting RoutingRules::setting_of(const Profile& profile) const {
  RoutingSetting setting{kind.settings(), profile.capacity_ratio, profile.k, profile.bpr, profile.pool,
                         kNoLimit,        profile.merge};
  const bool limited = (kind.settings() & VMOE_SET_MAX_EXPERTS) != 0 && profile.max_experts < num_experts();
  if (limited) setting.max_experts = profile.max_experts;
  return setting;
}

Profile RoutingRules::replaced(const Profile& base, const vmoe_setting& setting) const {
  RoutingSetting requested = setting_of(base);
  requested.given |= setting.set;
  if ((setting.set & VMOE_SET_CAPACITY_RATIO) != 0) requested.capacity_ratio = setting.capacity_ratio;
  if ((setting.set & VMOE_SET_K) != 0) requested.k = setting.k;
  if ((setting.set & VMOE_SET_BPR) != 0) requested.bpr = setting.bpr == 1;
  if ((setting.set & VMOE_SET_POOL) != 0) requested.pool = setting.pool == 1;
  if ((setting.set & VMOE_SET_MAX_EXPERTS) != 0) requested.max_experts = setting.max_experts;
  if ((setting.set & VMOE_SET_MERGE) != 0) requested.merge = setting.merge;
  return profile(requested);
}

Profile RoutingRules::profile(const RoutingSetting& setting) const {
  kind.check_settings(setting.given);
  if (setting.merge < 0 || setting.merge > kMaxMerge) {
    fail(VMOE_ROUTING_ERROR, "merge must be between 0 and ", in_thousands(kMaxMerge), ", not ", setting.merge);
  }
  if ((kind.settings() & VMOE_SET_CAPACITY_RATIO) == 0) {
    Profile alone;
    alone.merge = setting.merge;
    alone.name = profile_name(setting_of(alone));
    return alone;
  }
  const bool chooses = (kind.settings() & VMOE_SET_K) != 0;  // tokens choose experts
  const int64_t most = *std::min_element(experts.begin(), experts.end()) / kind.ensemble_size;
  if (chooses && (setting.k < 1 || setting.k > most)) {
    fail(VMOE_ROUTING_ERROR, "k must be between 1 and the number of experts",
         kind.ensemble_size == 1 ? "" : " of a member", ", ", most, ", not ", setting.k);
  }
  if (setting.max_experts < 1) {
    fail(VMOE_ROUTING_ERROR, "max_experts must be at least 1, not ", setting.max_experts);
  }
  const bool limited = setting.max_experts < num_experts();
  if (limited && group_tokens > kMaxMassTokens) {
    fail(VMOE_ROUTING_ERROR, "max_experts needs groups of at most ", in_thousands(kMaxMassTokens),
         " tokens, and these have ", in_thousands(group_tokens));
  }
  const int64_t k = chooses ? setting.k : 1;
  const double ratio = setting.capacity_ratio;
  if (ratio > static_cast<double>(num_experts())) {
    fail(VMOE_ROUTING_ERROR, "the capacity ratio ", rounded(ratio), " is larger than the number of experts, ",
         num_experts(), "; from ", rounded(static_cast<double>(num_experts()) / static_cast<double>(k)),
         " on no token is dropped");
  }
  const WideInt pairs = static_cast<WideInt>(group_tokens) * k;
  Profile profile;
  profile.capacity_ratio = ratio;
  WideInt all_slots = 0;
  for (const int64_t count : experts) {
    profile.slots.push_back(slots(pairs, count, ratio));
    all_slots += static_cast<WideInt>(profile.slots.back()) * count;
  }
  const WideInt all_pairs = pairs * static_cast<WideInt>(experts.size());
  profile.effective_ratio = static_cast<double>(all_slots) / static_cast<double>(all_pairs);
  if (chooses) {
    profile.k = k;
    profile.bpr = setting.bpr;
    profile.pool = setting.pool;
    profile.max_experts = limited ? setting.max_experts : num_experts();
  }
  profile.merge = setting.merge;
  profile.name = profile_name(setting_of(profile));
  return profile;
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
