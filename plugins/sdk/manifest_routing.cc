#include "sdk/manifest_routing.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <set>
#include <utility>

#include "sdk/error.h"

namespace vmoe::sdk {

namespace {

constexpr int64_t kKindVersion = 3;  // the first one with routing kinds, ensembles and policies
constexpr int64_t kMaxExperts = 65'536;
constexpr int64_t kMaxSlots = 65'536;  // of an expert and group in Soft MoE
constexpr size_t kMaxMoeLayers = 1'000;
constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();  // tokens and places are int32 in the graphs
constexpr size_t kMaxGroupDigits = 9;
constexpr std::string_view kTokens = "tokens:";
constexpr const char* kKinds[] = {"top-k", "experts-choice", "soft"};
constexpr vmoe_routing_kind kKindCodes[] = {VMOE_TOP_K, VMOE_EXPERTS_CHOICE, VMOE_SOFT};

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// "image", "batch", a number of images or "tokens:S", and no other number than the rest of the manifest says.
void check_group(const std::string& group, const RoutingRules& rules, int64_t batch_multiple) {
  if (group == "batch") return;
  const bool tokens = group.compare(0, kTokens.size(), kTokens) == 0;
  const std::string number = group == "image" ? "1" : tokens ? group.substr(kTokens.size()) : group;
  if (number.empty() || number.size() > kMaxGroupDigits || number[0] == '0' ||
      !std::all_of(number.begin(), number.end(), is_digit)) {
    fail(VMOE_BUNDLE_ERROR, kManifestName, ": 'group' is ", in_quotes(group),
         ", not image, batch, a number of images or tokens:S");
  }
  int64_t count = 0;
  std::from_chars(number.data(), number.data() + number.size(), count);
  const int64_t said = tokens ? rules.group_tokens : batch_multiple;
  if (count != said) {
    fail(VMOE_BUNDLE_ERROR, kManifestName, ": 'group' is '", group, "', and '",
         tokens ? "group_tokens" : "batch_multiple", "' is ", said);
  }
}

int64_t read_ensemble_size(const Json& routing, const RoutingRules& rules) {
  if (optional_field(routing, "ensemble_size") == nullptr) return 1;
  const int64_t size = positive_field(routing, "ensemble_size", kMaxExperts);
  for (const auto& [name, whole] :
       {std::pair("num_experts", rules.num_experts), {"group_tokens", rules.group_tokens}}) {
    if (whole % size != 0) {
      fail(VMOE_BUNDLE_ERROR, kManifestName, ": 'ensemble_size' is ", size, ", which doesn't divide '", name, "'");
    }
  }
  return size;
}

// Refuses a field that means nothing with a kind; null is nothing.
void no_field(const Json& object, const char* key, const char* kind) {
  if (optional_field(object, key) != nullptr) {
    fail(VMOE_BUNDLE_ERROR, kManifestName, ": '", key, "' means nothing with ", kind);
  }
}

void read_layers(const Json& routing, std::vector<std::string>& layers) {
  for (const Json& layer : array_field(routing, "layers")) {
    if (!layer.is_string() || !is_block(layer.get_ref<const std::string&>())) {
      fail(VMOE_BUNDLE_ERROR, kManifestName, ": 'layers' must name encoder blocks");
    }
    layers.push_back(layer.get<std::string>());
  }
  if (layers.empty()) fail(VMOE_BUNDLE_ERROR, kManifestName, ": 'layers' must name encoder blocks");
  const std::set<std::string_view> distinct(layers.begin(), layers.end());
  if (distinct.size() < layers.size() || distinct.size() > kMaxMoeLayers) {
    fail(VMOE_BUNDLE_ERROR, kManifestName, ": 'layers' names a block twice, or more than ", kMaxMoeLayers);
  }
}

// The kind and what it alone has. Before there were kinds all was top-k, whatever a manifest says.
void read_kind(const Json& routing, int64_t version, RoutingRules& rules) {
  RoutingKind& kind = rules.kind;
  kind.code = VMOE_TOP_K;
  kind.old_graph = version < kKindVersion;
  if (!kind.old_graph) kind.code = kKindCodes[choice_field(routing, "kind", {kKinds[0], kKinds[1], kKinds[2]})];
  if (kind.code == VMOE_SOFT) {
    kind.slots_per_expert = positive_field(routing, "slots_per_expert", kMaxSlots);
    for (const char* key : {"rounding", "capacity_multiple_of"}) no_field(routing, key, "Soft MoE");
  } else {
    rules.rounding =
        choice_field(routing, "rounding", {"ceil", "round"}) == 0 ? Rounding::kCeil : Rounding::kHalfToEven;
    rules.capacity_multiple_of = positive_field(routing, "capacity_multiple_of", kMaxInt32);
    if (!kind.old_graph) no_field(routing, "slots_per_expert", "top-k and experts choice");
  }
  if (kind.code != VMOE_TOP_K) {
    no_field(routing, "ensemble_size", "another kind than top-k");
  } else if (!kind.old_graph) {
    kind.ensemble_size = read_ensemble_size(routing, rules);
  }
}

// Whether a list is these whole numbers; 1.0 and true are none.
bool is_list_of(const Json& list, const std::vector<int64_t>& numbers) {
  return std::equal(list.begin(), list.end(), numbers.begin(), numbers.end(),
                    [](const Json& item, int64_t number) { return item.is_number_integer() && item == number; });
}

// The setting of a profile: just the fields that the kind has.
RoutingSetting read_setting(const Json& entry, const RoutingRules& rules) {
  RoutingSetting setting;
  setting.given = rules.kind.settings();
  int more = 0;
  for (const SettingField& field : kSettingFields) {
    const bool has = (setting.given & field.bit) != 0;
    if (!has && optional_field(entry, field.name) != nullptr) more |= field.bit;
  }
  rules.kind.check_settings(more);
  setting.capacity_ratio = number_field(entry, "capacity_ratio");
  if ((setting.given & VMOE_SET_K) != 0) setting.k = positive_field(entry, "k", kMaxExperts);
  if ((setting.given & VMOE_SET_BPR) != 0) setting.bpr = bool_field(entry, "bpr");
  if ((setting.given & VMOE_SET_POOL) != 0) setting.pool = bool_field(entry, "pool");
  if ((setting.given & VMOE_SET_MAX_EXPERTS) != 0) {
    setting.max_experts = positive_field(entry, "max_experts", rules.num_experts);
  }
  return setting;
}

Profile read_profile(const Json& entry, const RoutingRules& rules) {
  const std::string name = string_field(entry, "name");
  const Json& capacity = array_field(entry, "capacity");
  Profile computed;
  try {
    computed = rules.profile(read_setting(entry, rules));
  } catch (const Error& error) {
    if (error.code() != VMOE_ROUTING_ERROR) throw;
    fail(VMOE_BUNDLE_ERROR, kManifestName, ": profile ", in_quotes(name), ": ", error.what());
  }
  if (!is_list_of(capacity, computed.capacity) || computed.name != name) {
    fail(VMOE_BUNDLE_ERROR, kManifestName, ": profile ", in_quotes(name),
         " doesn't say what its setting gives: ", computed.name, " with ", computed.capacity[0],
         " places per expert in each of ", computed.capacity.size(), " MoE layers");
  }
  return computed;
}

}  // namespace

void read_routing(const Json& raw, int64_t version, Manifest& manifest) {
  if (optional_field(raw, "routing") == nullptr) return;
  const Json& routing = object_field(raw, "routing");
  read_layers(routing, manifest.moe_layers);
  RoutingRules rules;
  rules.num_experts = positive_field(routing, "num_experts", kMaxExperts);
  rules.group_tokens = positive_field(routing, "group_tokens", kMaxInt32);
  rules.num_moe_layers = manifest.moe_layers.size();
  read_kind(routing, version, rules);
  manifest.rules = rules;
  manifest.group = string_field(routing, "group");
  check_group(manifest.group, rules, manifest.batch_multiple);
}

void read_profiles(const Json& raw, Manifest& manifest) {
  const bool has_profiles = manifest.kind().settings() != 0;
  for (const Json& entry : array_field(raw, "profiles")) {
    if (!manifest.rules || !has_profiles || !entry.is_object()) {
      fail(VMOE_BUNDLE_ERROR, kManifestName, ": profiles must be objects, and ",
           manifest.rules && !has_profiles ? "Soft MoE" : "a dense model", " has none");
    }
    Profile profile = read_profile(entry, *manifest.rules);
    if (manifest.find_profile(profile.name) != nullptr) {
      fail(VMOE_BUNDLE_ERROR, kManifestName, ": there are two profiles ", in_quotes(profile.name));
    }
    manifest.profiles.push_back(std::move(profile));
  }
  if (has_profiles && manifest.profiles.empty()) {
    fail(VMOE_BUNDLE_ERROR, kManifestName, ": a sparse model needs at least one profile");
  }
}

}  // namespace vmoe::sdk
