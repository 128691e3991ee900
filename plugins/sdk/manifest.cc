#include "sdk/manifest.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <numeric>
#include <regex>
#include <set>
#include <utility>

#include "sdk/error.h"
#include "sdk/fields.h"
#include "sdk/generated/setting_rows.h"

namespace vmoe::sdk {

namespace {

// Throws VMOE_BUNDLE_ERROR. The message is the concatenation of `parts`. The message states what is wrong in the
// manifest.
template <typename... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  fail(VMOE_BUNDLE_ERROR, parts...);
}

template <const char* kPattern>
bool matches(const Json& text) {
  static const std::regex pattern(kPattern);
  // Refuses long strings without matching them, because they could exhaust std::regex's stack. No pattern allows
  // strings of this length.
  if (!text.is_string() || text.get_ref<const std::string&>().size() > kMaxName) return false;
  return std::regex_match(text.get_ref<const std::string&>(), pattern);
}

// Returns the index of the string `text` in `choices`. `choices` must contain `text`.
template <size_t kCount>
int32_t index_of(const Json& text, const char* const (&choices)[kCount]) {
  int32_t index = 0;
  while (index + 1 < static_cast<int32_t>(kCount) && text != choices[index]) ++index;
  return index;
}

// Returns the kOf* bit for the kind of model that a manifest describes. The caller must have checked the fields in
// kKindFields.
unsigned kind_of(const Json& raw) {
  const Json* routing = optional_field(raw, "routing");
  if (routing == nullptr) return kOfDense;
  const unsigned kind = kOfRoutingKinds[index_of(routing->at("kind"), kRoutingKinds)];
  const Json* members = optional_field(*routing, "ensemble_size");
  const bool has_members = members != nullptr && !(members->is_number_integer() && *members == 1);
  return kind == kOfTopK && has_members ? kOfEnsemble : kind;
}

// Reads the numbers of rows and columns of patches, and how many tokens come before the patches. If the model
// description has no valid patch size, all three numbers stay 0. A missing patch size is not an error.
void read_patches(const Json& model, vmoe_info& info) {
  const Json* size = optional_field(model, "patch_size");
  const auto fits = [](const Json& side, int64_t whole) {
    return side.is_number_unsigned() && side > 0 && side <= whole;
  };
  if (size == nullptr || !size->is_array() || size->size() != 2) return;
  if (!fits((*size)[0], info.height) || !fits((*size)[1], info.width)) return;
  info.patch_rows = info.height / (*size)[0].get<int64_t>();
  info.patch_columns = info.width / (*size)[1].get<int64_t>();
  const Json* classifier = optional_field(model, "classifier");
  const Json* extra = optional_field(model, "extra_tokens");
  const bool reads_token = classifier != nullptr && classifier->is_string() &&
                           classifier->get_ref<const std::string&>().rfind("token", 0) == 0;
  const bool has_extra = extra != nullptr && extra->is_number_unsigned() && *extra < 1000;
  info.front_tokens = (reads_token ? 1 : 0) + (has_extra ? extra->get<int32_t>() : 0);
}

void read_class_names(const Json& raw, Manifest& manifest) {
  const Json* names = optional_field(raw, "class_names");
  if (names == nullptr) return;
  const bool all_text = std::all_of(names->begin(), names->end(), [](const Json& name) { return name.is_string(); });
  const size_t classes = raw["output"]["size"];
  if (names->size() != classes || !all_text) refuse("class_names must be ", classes, " strings");
  manifest.class_names = names->get<std::vector<std::string>>();
}

std::vector<std::string> read_layers(const Json& layers) {
  const bool named = std::all_of(layers.begin(), layers.end(), [](const Json& n) { return matches<kBlockPattern>(n); });
  if (layers.empty() || !named) refuse("'layers' must name encoder blocks");
  const auto names = layers.get<std::vector<std::string>>();
  if (std::set<std::string_view>(names.begin(), names.end()).size() < names.size() || names.size() > kMaxMoeLayers) {
    refuse("'layers' names a block twice, or more than ", kMaxMoeLayers);
  }
  return names;
}

// Reads the routing group, which is "image", "batch", a number of images or "tokens:S". Checks that the number of
// images or S agrees with the rest of the manifest.
std::string read_group(const Json& raw) {
  const Json& routing = raw["routing"];
  const auto group = routing["group"].get<std::string>();
  if (!matches<kGroupPattern>(group)) {
    refuse("'group' is ", in_quotes(group), ", not image, batch, a number of images or tokens:S");
  }
  const size_t colon = group.find(':');
  const char* what = colon == std::string::npos ? "batch_multiple" : "group_tokens";
  const Json& other = colon == std::string::npos ? raw[what] : routing[what];
  const std::string number = group == "image" ? "1" : group.substr(colon == std::string::npos ? 0 : colon + 1);
  if (group != "batch" && number != other.dump())
    refuse("'group' is '", group, "', and '", what, "' is ", other.dump());
  return group;
}

// Returns the number of experts in each MoE layer.
std::vector<int64_t> read_experts(const Json& routing, size_t layers) {
  const int64_t largest = routing["num_experts"];
  const Json* given = optional_field(routing, "layer_experts");
  if (given == nullptr) return std::vector<int64_t>(layers, largest);
  const bool whole = std::all_of(given->begin(), given->end(), [&](const Json& count) {
    return count.is_number_unsigned() && count >= 1 && count <= largest;
  });
  if (given->size() != layers || !whole || std::find(given->begin(), given->end(), largest) == given->end()) {
    refuse("'layer_experts' must have a number for each of 'layers', and 'num_experts' is the largest");
  }
  return given->get<std::vector<int64_t>>();
}

RoutingRules read_rules(const Json& raw, size_t layers) {
  RoutingRules rules;
  if (const Json* merging = optional_field(raw, "image_tokens")) rules.image_tokens = *merging;
  if (optional_field(raw, "routing") == nullptr) return rules;
  const Json& routing = raw["routing"];
  rules.experts = read_experts(routing, layers);
  rules.group_tokens = routing["group_tokens"];
  if (rules.image_tokens > 0 && rules.group_tokens % rules.image_tokens != 0) {
    refuse("'image_tokens' is ", rules.image_tokens, ", which doesn't divide 'group_tokens'");
  }
  rules.kind = kRoutingKindCodes[index_of(routing["kind"], kRoutingKinds)];
  if (rules.kind == VMOE_SOFT) {
    rules.slots_per_expert = routing["slots_per_expert"];
    return rules;
  }
  rules.rounding = routing["rounding"] == "ceil" ? Rounding::kCeil : Rounding::kHalfToEven;
  rules.capacity_multiple_of = routing["capacity_multiple_of"];
  if (const Json* members = optional_field(routing, "ensemble_size")) rules.ensemble_size = *members;
  const auto is_cut = [&](int64_t count) { return count % rules.ensemble_size != 0; };
  const bool cuts_experts = std::any_of(rules.experts.begin(), rules.experts.end(), is_cut);
  if (cuts_experts || is_cut(rules.group_tokens)) {
    refuse("'ensemble_size' is ", rules.ensemble_size, ", which doesn't divide '",
           cuts_experts ? "num_experts" : "group_tokens", "'");
  }
  return rules;
}

// Adds an output that has one row per token.
void add_token_output(std::string name, const Json& tokens, const Json& size, std::vector<GraphOutput>& outputs) {
  outputs.push_back({std::move(name), {tokens, size}});
  if (outputs.back().floats() > kMaxOutputSize) refuse("'tokens' times 'size' is more than ", kMaxOutputSize);
}

std::vector<GraphOutput> read_outputs(const Json& raw, const Manifest& manifest) {
  const Json& output = raw["output"];
  const std::string name = output["name"];
  const int64_t size = output["size"];
  const Json *tokens = optional_field(output, "tokens"), *layers = optional_field(raw, "layers");
  if ((tokens != nullptr) != (manifest.info.output == VMOE_TOKENS)) {
    refuse("an output of tokens, and no other, has a number of 'tokens'");
  }
  std::vector<GraphOutput> outputs;
  if (tokens != nullptr) {
    add_token_output(name, *tokens, size, outputs);
  } else if (manifest.info.output == VMOE_MEMBERS) {
    outputs.push_back({name, {manifest.rules.ensemble_size, size}});
  } else {
    outputs.push_back({name, {size}});
  }
  if (layers == nullptr) return outputs;
  int64_t before = -1;
  for (const Json& block : layers->at("blocks")) {
    if (!block.is_number_unsigned() || block > kMaxBlock) {
      refuse("'blocks' must be numbers of encoder blocks, 0 to ", kMaxBlock);
    }
    if (block <= before) refuse("'blocks' must be in ascending order, each once");
    before = block;
    add_token_output(kLayerPrefix + std::to_string(before), layers->at("tokens"), layers->at("size"), outputs);
  }
  if (before < 0) refuse("'blocks' names no block");
  return outputs;
}

// Returns whether a list consists of exactly the whole numbers in `numbers`. In the list, 1.0 or true does not count
// as the whole number 1.
bool is_list_of(const Json& list, const std::vector<int64_t>& numbers) {
  return std::equal(list.begin(), list.end(), numbers.begin(), numbers.end(),
                    [](const Json& item, int64_t number) { return item.is_number_integer() && item == number; });
}

Profile read_profile(const Json& entry, const RoutingRules& rules) {
  const std::string name = entry["name"];
  Profile computed;
  try {
    vmoe_setting setting = VMOE_SETTING_INIT;
    for_each_setting([&](const SettingRow& row, auto field, auto) {
      const Json* value = optional_field(entry, row.stored);
      if (value == nullptr) return;
      setting.set |= row.bit;
      setting.*field = *value;
    });
    computed = rules.profile(setting);
    for_each_setting([&](const SettingRow& row, auto field, auto) {
      if ((setting.set & row.bit) == 0 || setting.*field == computed.values.*field) return;
      fail(VMOE_ROUTING_ERROR, "'", row.stored, "' is ", setting.*field, ", and can be at most ",
           computed.values.*field);
    });
  } catch (const Error& error) {
    refuse("profile ", in_quotes(name), ": ", error.what());
  }
  const Json* capacity = optional_field(entry, "capacity");
  if (!is_list_of(capacity == nullptr ? Json::array() : *capacity, computed.slots) || computed.name != name) {
    const std::string slots = computed.slots.empty() ? ""
                                                     : " with " + std::to_string(computed.slots[0]) +
                                                           " slots per expert in the first of " +
                                                           std::to_string(computed.slots.size()) + " MoE layers";
    refuse("profile ", in_quotes(name), " doesn't say what its setting gives: ", computed.name, slots);
  }
  return computed;
}

void read_profiles(const Json& entries, unsigned kind, Manifest& manifest) {
  const int settings = manifest.rules.settings();
  for (const Json& entry : entries) {
    if (settings == 0 || !entry.is_object()) {
      refuse("profiles must be objects, and a ", kind == kOfSoft ? "Soft MoE" : "dense model", " has none");
    }
    check_fields(entry, kProfileFields, kind);
    Profile profile = read_profile(entry, manifest.rules);
    if (manifest.find_profile(profile.name) != nullptr) refuse("there are two profiles ", in_quotes(profile.name));
    manifest.profiles.push_back(std::move(profile));
  }
  const bool needs_profile = (settings & VMOE_SET_CAPACITY_RATIO) != 0;
  if (needs_profile && manifest.profiles.empty()) refuse("a sparse model needs at least one profile");
}

void read_files(const Json& entries, const Json& graphs, Manifest& manifest) {
  for (const auto& [name, entry] : entries.items()) {
    if (!matches<kFilePattern>(name) || name == kManifestName) {
      refuse(in_quotes(name), " is not a file name that a bundle may hold");
    }
    if (!entry.is_object()) refuse("'", name, "' is no object");
    check_fields(entry, kFileFields, kOfDense);
    if (!matches<kSha256Pattern>(entry["sha256"])) refuse("'", name, "' has no SHA-256");
    manifest.files[name] = {entry["sha256"], entry["bytes"]};
  }
  for (const char* name : {kWeightsName, kCanonicalGraph, kInlinedGraph}) {
    if (manifest.files.count(name) == 0) refuse("the bundle has no ", name);
  }
  if ((manifest.files.count(kMergingGraph) != 0) != (optional_field(graphs, "merging") != nullptr)) {
    refuse("'graphs' and 'files' don't agree on ", kMergingGraph);
  }
}

void check_tensorrt(const Json& raw, const Manifest& manifest) {
  const Json* entry = optional_field(raw, "tensorrt");
  if (entry == nullptr) return;
  std::set<std::string> files;
  for (const auto& [name, graph] : entry->at("graphs").items()) {
    const bool known = manifest.profiles.empty() ? name == kDenseGraphKey : manifest.find_profile(name) != nullptr;
    if (!known) refuse("'tensorrt' has a graph for ", in_quotes(name), ", and there is no such profile");
    const std::string file = graph.is_string() ? graph.get<std::string>() : graph.dump();
    if (!graph.is_string() || manifest.files.count(file) == 0 || !is_graph(file)) {
      refuse("'tensorrt' names ", in_quotes(file), ", which is no graph file of the bundle");
    }
    files.insert(file);
  }
  if (files.empty() || files.size() < entry->at("graphs").size()) {
    refuse("'tensorrt' names no graphs, or one file for two profiles");
  }
}

Manifest read(const Json& raw) {
  check_fields(raw, kKindFields, kOfTopK);
  const unsigned kind = kind_of(raw);
  check_fields(raw, kManifestFields, kind);
  const Json &image = raw["input"], &output = raw["output"];
  Manifest manifest;
  vmoe_info& info = manifest.info;
  info.height = image["height"];
  info.width = image["width"];
  info.channels = image["channels"];
  info.input_dtype = image["dtype"] == "float32" ? VMOE_FLOAT32 : VMOE_UINT8;
  read_patches(raw["model"], info);
  manifest.preprocessing =
      read_steps(raw["preprocessing"]["steps"].get_ref<const std::string&>(), image["height"], image["width"]);
  info.output = kOutputCodes[index_of(output["name"], kOutputs)];
  if (info.output == (kind == kOfEnsemble ? VMOE_FEATURES : VMOE_MEMBERS)) {
    refuse("'name' of the output is '", output["name"].get<std::string>(),
           "', which a model of this kind doesn't have");
  }
  const Json* probabilities = optional_field(raw, "probabilities");
  info.probabilities = kProbabilitiesCodes[probabilities == nullptr ? 0 : index_of(*probabilities, kProbabilities)];
  info.precision = kPrecisionCodes[index_of(raw["precision"], kPrecisions)];
  info.batch_multiple = raw["batch_multiple"];
  read_class_names(raw, manifest);
  if (kind != kOfDense) {
    manifest.moe_layers = read_layers(raw["routing"]["layers"]);
    manifest.group = read_group(raw);
  }
  manifest.rules = read_rules(raw, manifest.moe_layers.size());
  info.num_experts = manifest.rules.num_experts();
  info.group_tokens = manifest.rules.group_tokens;
  info.ensemble_size = manifest.rules.ensemble_size;
  info.routing_kind = manifest.rules.kind;
  manifest.outputs = read_outputs(raw, manifest);
  info.output_size = manifest.outputs.front().floats();
  read_profiles(raw["profiles"], kind, manifest);
  read_files(raw["files"], raw["graphs"], manifest);
  check_tensorrt(raw, manifest);
  return manifest;
}

}  // namespace

bool is_graph(std::string_view file) {
  constexpr std::string_view kSuffix = ".onnx";
  return file.size() >= kSuffix.size() && file.substr(file.size() - kSuffix.size()) == kSuffix;
}

int64_t GraphOutput::floats() const {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

const GraphOutput& Manifest::find_output(std::string_view name) const {
  std::string known;
  for (const GraphOutput& output : outputs) {
    if (output.name == name) return output;
    known += (known.empty() ? "" : ", ") + output.name;
  }
  fail(VMOE_ARGUMENT_ERROR, "the bundle has no output ", in_quotes(name), "; it has ", known);
}

const Profile* Manifest::find_profile(std::string_view name) const {
  const auto found = std::find_if(profiles.begin(), profiles.end(), [&](const Profile& p) { return p.name == name; });
  return found == profiles.end() ? nullptr : &*found;
}

Manifest parse_manifest(std::string_view text) {
  const Json raw = parse_json(text);
  const Json* format = raw.is_object() ? optional_field(raw, "format") : nullptr;
  if (format == nullptr || *format != kFormat) {
    fail(VMOE_BUNDLE_ERROR, kManifestName, " is not the manifest of a vmoe bundle");
  }
  const Json version = raw.value("format_version", Json());
  if (!version.is_number_integer() || version != kFormatVersion) {
    fail(VMOE_BUNDLE_ERROR, "the bundle has format version ", one_line(version.dump().substr(0, 40)),
         ", and this version of the library reads ", kFormatVersion,
         " only; export it again with this version, or read it with the one that wrote it");
  }
  try {
    return read(raw);
  } catch (const Error& error) {
    fail(VMOE_BUNDLE_ERROR, kManifestName, ": ", error.what());
  }
}

}  // namespace vmoe::sdk
