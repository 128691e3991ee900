#include "sdk/routing_rules.h"

#include <algorithm>
#include <iterator>

#include "sdk/decimal.h"
#include "sdk/error.h"
#include "sdk/generated/bundle_rules.h"
#include "sdk/generated/setting_rows.h"

namespace vmoe::sdk {

namespace {

// Returns the names of the settings in `set` as a list for messages. Examples are "k", "k or bpr", and "k, bpr or
// pool".
std::string listed(int set) {
  std::string names;
  for (const SettingRow& row : kSettingRows) {
    if ((set & row.bit) == 0) continue;
    set &= ~row.bit;
    names += (names.empty() ? "" : set == 0 ? " or " : ", ") + std::string(row.name);
  }
  return names;
}

}  // namespace

int RoutingRules::settings() const {
  const auto* code = std::find(std::begin(kRoutingKindCodes), std::end(kRoutingKindCodes), kind);
  const unsigned own_kind = code == std::end(kRoutingKindCodes) ? kOfDense : kOfRoutingKinds[code - kRoutingKindCodes];
  const unsigned bit = ensemble_size > 1 ? kOfEnsemble : own_kind;
  int own = 0;
  for (const SettingRow& row : kSettingRows) {
    const bool has_it = (row.kinds & bit) != 0 && (image_tokens > 0 || !row.merging);
    own |= has_it ? row.bit : 0;
  }
  return own;
}

void RoutingRules::check_settings(int set) const {
  const int missing = set & ~settings();
  if (missing == 0) return;
  if (missing == VMOE_SET_MERGE) {
    fail(VMOE_ROUTING_ERROR, "tokens can't be merged in ",
         ensemble_size > 1 ? "an ensemble (E3)" : "groups that cut an image, nor where a bundle returns tokens",
         ": it takes no merge");
  }
  const char* but = image_tokens > 0 ? " but merge" : "";
  switch (kind) {
    case VMOE_DENSE: fail(VMOE_ROUTING_ERROR, "this is a dense model: it has no ", listed(missing));
    case VMOE_SOFT: fail(VMOE_ROUTING_ERROR, "Soft MoE has nothing to set", but, ": it takes no ", listed(missing));
    case VMOE_EXPERTS_CHOICE:
      fail(VMOE_ROUTING_ERROR, "with expert choice there is nothing to set but the capacity ratio",
           image_tokens > 0 ? " and merge" : "", ": it takes no ", listed(missing));
    default: fail(VMOE_ROUTING_ERROR, "ensembles (E3) are routed officially: they take no ", listed(missing));
  }
}

std::optional<Profile> RoutingRules::named_profile(std::string_view name) const {
  if (name.size() > kMaxName) return std::nullopt;
  const auto setting = parse_profile_name(name);
  // Of the settings that have no default, a name must contain exactly those that this routing kind has.
  if (!setting || ((setting->set ^ settings()) & needed_settings(~0U)) != 0) return std::nullopt;
  return profile(*setting);
}

const char* RoutingRules::name_examples() const {
  if ((settings() & VMOE_SET_CAPACITY_RATIO) == 0) {
    return "any name like r8 works, which merges 8 tokens of an image in each block";
  }
  return (settings() & VMOE_SET_K) != 0 ? "any name like c0.3-k1, c0.3-k1-vanilla or c0.3-k1-pool-m4 works"
                                        : "any name like c1.0 works";
}

Profile RoutingRules::profile(const vmoe_setting& setting) const {
  check_settings(setting.set);
  check_ranges(setting);
  const vmoe_setting requested = replaced(default_setting(), setting);
  Profile profile;
  profile.values.set = settings();
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
  const int64_t most = *std::min_element(experts.begin(), experts.end()) / ensemble_size;
  if (k >= 1 && k <= most) return;
  fail(VMOE_ROUTING_ERROR, "k must be between 1 and the number of experts", ensemble_size == 1 ? "" : " of a member",
       ", ", most, ", not ", k);
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
  const int64_t pairs = group_tokens * k;
  WideInt all_slots = 0;
  for (const int64_t count : experts) {
    profile.slots.push_back(slots(pairs, count, ratio));
    all_slots += static_cast<WideInt>(profile.slots.back()) * count;
  }
  const int64_t all_pairs = pairs * static_cast<int64_t>(experts.size());
  profile.effective_ratio = static_cast<double>(all_slots) / static_cast<double>(all_pairs);
}

int64_t RoutingRules::slots(int64_t pairs, int64_t count, double ratio) const {
  const double most = std::min(ratio, static_cast<double>(count));
  const int64_t slots = compute_slots(pairs, count, most, rounding, capacity_multiple_of);
  // No expert can receive more than `pairs` pairs. If rounding up to the multiple gives far more slots than that, the
  // additional slots would only cost memory.
  if (slots > std::max(2 * pairs, kSmallGroup)) {
    fail(VMOE_ROUTING_ERROR, "rounding up to a multiple of ", capacity_multiple_of, " gives ", slots,
         " slots per expert, where a group has ", pairs, " token-expert pairs");
  }
  return slots;
}

}  // namespace vmoe::sdk
