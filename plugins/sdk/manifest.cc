#include "sdk/manifest.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <set>
#include <utility>

#include "sdk/error.h"
#include "sdk/json_fields.h"

namespace vmoe::sdk {

namespace {

constexpr char kFormat[] = "vmoe-bundle";
constexpr int64_t kFormatVersion = 3;
constexpr int64_t kEnsembleVersion = 3;  // the first one with ensembles
constexpr int64_t kMaxPixels = 65'536;   // of a side, and channels
constexpr int64_t kMaxBatchMultiple = 65'536;
// Callers allocate this many floats per image; no head comes near it.
constexpr int64_t kMaxOutputSize = int64_t{1} << 24;
constexpr int64_t kMaxExperts = 65'536;
constexpr size_t kMaxMoeLayers = 1'000;
constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();  // tokens and places are int32 in the graphs
constexpr int64_t kMaxFileBytes = int64_t{1} << 53;
constexpr size_t kMaxGroupDigits = 9;
constexpr char kDenseGraphKey[] = "model";  // stands for a profile's name
constexpr std::string_view kTokens = "tokens:";
constexpr const char* kPrecisions[] = {"fp32", "bf16", "int8", "bf16-experts"};
constexpr vmoe_precision kPrecisionCodes[] = {VMOE_FP32, VMOE_BF16, VMOE_INT8, VMOE_BF16_EXPERTS};
constexpr size_t kMaxFileName = 121;
constexpr size_t kSha256Digits = 64;
constexpr std::string_view kBlockPrefix = "encoderblock_";
constexpr size_t kMaxBlockDigits = 6;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool is_hex_digit(char c) { return is_digit(c) || (c >= 'a' && c <= 'f'); }

bool is_word(char c) { return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

bool is_file_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxFileName && is_word(name[0]) && name != kManifestName &&
         std::all_of(name.begin(), name.end(), [](char c) { return is_word(c) || c == '.' || c == '-'; });
}

bool is_sha256(std::string_view text) {
  return text.size() == kSha256Digits && std::all_of(text.begin(), text.end(), is_hex_digit);
}

// Returns the format version.
int64_t check_format(const Json& raw) {
  const Json* format = raw.is_object() ? optional_field(raw, "format") : nullptr;
  if (format == nullptr || *format != kFormat) {
    fail(VMOE_BUNDLE_ERROR, kManifestName, " is not the manifest of a vmoe bundle");
  }
  const int64_t version = integer_field(raw, "format_version");
  if (version > kFormatVersion) {
    fail(VMOE_BUNDLE_ERROR, "the bundle has format version ", version, ", and this version of the library reads up to ",
         kFormatVersion, "; upgrade vmoe-export");
  }
  if (version < 1) fail(VMOE_BUNDLE_ERROR, kManifestName, ": format_version is ", version);
  return version;
}

vmoe_precision read_precision(const Json& raw, int64_t version) {
  // Bundles from before bfloat16 don't say.
  if (!raw.contains("precision")) return VMOE_FP32;
  // In version 1 bfloat16 was for experts alone.
  if (version == 1) return choice_field(raw, "precision", {"fp32", "bf16"}) == 0 ? VMOE_FP32 : VMOE_BF16_EXPERTS;
  return kPrecisionCodes[choice_field(raw, "precision",
                                      {kPrecisions[0], kPrecisions[1], kPrecisions[2], kPrecisions[3]})];
}

InputSpec read_input(const Json& image) {
  InputSpec input;
  input.dtype = choice_field(image, "dtype", {"float32", "uint8"}) == 0 ? VMOE_FLOAT32 : VMOE_UINT8;
  input.height = positive_field(image, "height", kMaxPixels);
  input.width = positive_field(image, "width", kMaxPixels);
  input.channels = positive_field(image, "channels", kMaxPixels);
  only_field(image, "name", kImageInput);
  return input;
}

void check_graph_names(const Json& raw) {
  if (optional_field(raw, "graphs") == nullptr) return;
  only_field(object_field(raw, "graphs"), "canonical", kCanonicalGraph);
  only_field(object_field(raw, "graphs"), "inlined", kInlinedGraph);
}

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

Preprocessing read_preprocessing(const Json& raw, const InputSpec& input) {
  constexpr char kSquash[] =
      R"({"antialias":false,"resize":"bilinear","value_range":[-1,1]})";  // before there were steps
  if (optional_field(raw, "preprocessing") == nullptr) return squash(input.height, input.width);
  const Json& entry = object_field(raw, "preprocessing");
  if (entry.dump() == kSquash) return squash(input.height, input.width);
  return read_steps(string_field(entry, "steps"), input.height, input.width);
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

vmoe_output read_output(const Json& output, int64_t ensemble_size) {
  if (ensemble_size > 1) return choice_field(output, "name", {"logits", "members"}) == 0 ? VMOE_LOGITS : VMOE_MEMBERS;
  return choice_field(output, "name", {"logits", "features"}) == 0 ? VMOE_LOGITS : VMOE_FEATURES;
}

void read_routing(const Json& raw, int64_t version, Manifest& manifest) {
  if (optional_field(raw, "routing") == nullptr) return;
  const Json& routing = object_field(raw, "routing");
  for (const Json& layer : array_field(routing, "layers")) {
    if (!layer.is_string() || !is_block(layer.get_ref<const std::string&>())) {
      fail(VMOE_BUNDLE_ERROR, kManifestName, ": 'layers' must name encoder blocks");
    }
    manifest.moe_layers.push_back(layer.get<std::string>());
  }
  if (manifest.moe_layers.empty()) fail(VMOE_BUNDLE_ERROR, kManifestName, ": 'layers' must name encoder blocks");
  const std::set<std::string_view> distinct(manifest.moe_layers.begin(), manifest.moe_layers.end());
  if (distinct.size() < manifest.moe_layers.size() || distinct.size() > kMaxMoeLayers) {
    fail(VMOE_BUNDLE_ERROR, kManifestName, ": 'layers' names a block twice, or more than ", kMaxMoeLayers);
  }
  RoutingRules rules;
  rules.num_experts = positive_field(routing, "num_experts", kMaxExperts);
  rules.group_tokens = positive_field(routing, "group_tokens", kMaxInt32);
  rules.num_moe_layers = manifest.moe_layers.size();
  rules.rounding = choice_field(routing, "rounding", {"ceil", "round"}) == 0 ? Rounding::kCeil : Rounding::kHalfToEven;
  rules.capacity_multiple_of = positive_field(routing, "capacity_multiple_of", kMaxInt32);
  if (version >= kEnsembleVersion) rules.ensemble_size = read_ensemble_size(routing, rules);
  manifest.rules = rules;
  manifest.group = string_field(routing, "group");
  check_group(manifest.group, rules, manifest.batch_multiple);
}

// Whether a list is these whole numbers; 1.0 and true are none.
bool is_list_of(const Json& list, const std::vector<int64_t>& numbers) {
  return std::equal(list.begin(), list.end(), numbers.begin(), numbers.end(),
                    [](const Json& item, int64_t number) { return item.is_number_integer() && item == number; });
}

Profile read_profile(const Json& entry, const RoutingRules& rules) {
  const std::string name = string_field(entry, "name");
  const Json& capacity = array_field(entry, "capacity");
  const double ratio = number_field(entry, "capacity_ratio");
  const int64_t k = positive_field(entry, "k", kMaxExperts);
  const bool bpr = bool_field(entry, "bpr");
  Profile computed;
  try {
    computed = rules.profile(ratio, k, bpr);
  } catch (const Error& error) {
    fail(VMOE_BUNDLE_ERROR, kManifestName, ": profile ", in_quotes(name), ": ", error.what());
  }
  if (!is_list_of(capacity, computed.capacity) || computed.name != name) {
    fail(VMOE_BUNDLE_ERROR, kManifestName, ": profile ", in_quotes(name),
         " doesn't say what its setting gives: ", computed.name, " with ", computed.capacity[0],
         " places per expert in each of ", computed.capacity.size(), " MoE layers");
  }
  return computed;
}

void read_profiles(const Json& raw, Manifest& manifest) {
  for (const Json& entry : array_field(raw, "profiles")) {
    if (!manifest.rules || !entry.is_object()) {
      fail(VMOE_BUNDLE_ERROR, kManifestName, ": profiles must be objects, and a dense model has none");
    }
    Profile profile = read_profile(entry, *manifest.rules);
    if (manifest.find_profile(profile.name) != nullptr) {
      fail(VMOE_BUNDLE_ERROR, kManifestName, ": there are two profiles ", in_quotes(profile.name));
    }
    manifest.profiles.push_back(std::move(profile));
  }
  if (manifest.rules && manifest.profiles.empty()) {
    fail(VMOE_BUNDLE_ERROR, kManifestName, ": a sparse model needs at least one profile");
  }
}

void read_class_names(const Json& raw, Manifest& manifest) {
  if (optional_field(raw, "class_names") == nullptr) return;
  const Json& names = array_field(raw, "class_names");
  const bool all_text = std::all_of(names.begin(), names.end(), [](const Json& name) { return name.is_string(); });
  if (static_cast<int64_t>(names.size()) != manifest.output_size || !all_text) {
    fail(VMOE_BUNDLE_ERROR, kManifestName, ": class_names must be ", manifest.output_size, " strings");
  }
  for (const Json& name : names) manifest.class_names.push_back(name.get<std::string>());
}

void read_files(const Json& raw, Manifest& manifest) {
  for (const auto& [name, entry] : object_field(raw, "files").items()) {
    if (!is_file_name(name)) {
      fail(VMOE_BUNDLE_ERROR, kManifestName, ": ", in_quotes(name), " is not a file name that a bundle may hold");
    }
    if (!entry.is_object() || !is_sha256(string_field(entry, "sha256"))) {
      fail(VMOE_BUNDLE_ERROR, kManifestName, ": ", in_quotes(name), " has no SHA-256");
    }
    manifest.files[name] = {string_field(entry, "sha256"), positive_field(entry, "bytes", kMaxFileBytes)};
  }
  for (const char* name : {kWeightsName, kCanonicalGraph, kInlinedGraph}) {
    if (manifest.files.count(name) == 0) fail(VMOE_BUNDLE_ERROR, kManifestName, ": the bundle has no ", name);
  }
}

void read_tensorrt(const Json& raw, Manifest& manifest) {
  if (optional_field(raw, "tensorrt") == nullptr) return;
  const Json& entry = object_field(raw, "tensorrt");
  choice_field(entry, "precision", {"fp32", "fp16", "bf16"});
  std::set<std::string> files;
  for (const auto& [name, graph] : object_field(entry, "graphs").items()) {
    const bool known = manifest.profiles.empty() ? name == kDenseGraphKey : manifest.find_profile(name) != nullptr;
    if (!known) {
      fail(VMOE_BUNDLE_ERROR, kManifestName, ": 'tensorrt' has a graph for ", in_quotes(name),
           ", and there is no such profile");
    }
    const std::string file = graph.is_string() ? graph.get<std::string>() : graph.dump();
    if (!graph.is_string() || manifest.files.count(file) == 0 || !is_graph(file)) {
      fail(VMOE_BUNDLE_ERROR, kManifestName, ": 'tensorrt' names ", in_quotes(file),
           ", which is no graph file of the bundle");
    }
    if (!files.insert(file).second) {
      fail(VMOE_BUNDLE_ERROR, kManifestName, ": 'tensorrt' names one file for two profiles");
    }
    manifest.tensorrt_graphs[name] = file;
  }
  if (files.empty()) fail(VMOE_BUNDLE_ERROR, kManifestName, ": 'tensorrt' names no graphs");
}

}  // namespace

bool is_graph(std::string_view file) {
  constexpr std::string_view kSuffix = ".onnx";
  return file.size() >= kSuffix.size() && file.substr(file.size() - kSuffix.size()) == kSuffix;
}

bool is_block(std::string_view name) {
  if (name.substr(0, kBlockPrefix.size()) != kBlockPrefix) return false;
  name.remove_prefix(kBlockPrefix.size());
  return !name.empty() && name.size() <= kMaxBlockDigits && std::all_of(name.begin(), name.end(), is_digit);
}

const char* Manifest::output_name() const {
  switch (output) {
    case VMOE_MEMBERS: return "members";
    case VMOE_FEATURES: return "features";
    default: return "logits";
  }
}

std::vector<int64_t> Manifest::output_shape(int64_t images) const {
  if (output == VMOE_MEMBERS) return {images, ensemble_size(), output_size};
  return {images, output_size};
}

const char* Manifest::precision_name() const {
  switch (precision) {
    case VMOE_BF16: return kPrecisions[1];
    case VMOE_INT8: return kPrecisions[2];
    case VMOE_BF16_EXPERTS: return kPrecisions[3];
    default: return kPrecisions[0];
  }
}

const Profile* Manifest::find_profile(std::string_view name) const {
  const auto found = std::find_if(profiles.begin(), profiles.end(), [&](const Profile& p) { return p.name == name; });
  return found == profiles.end() ? nullptr : &*found;
}

Manifest parse_manifest(std::string_view text) {
  const Json raw = parse_json(text);
  const int64_t version = check_format(raw);
  object_field(raw, "model");
  Manifest manifest;
  manifest.input = read_input(object_field(raw, "input"));
  check_graph_names(raw);
  manifest.preprocessing = read_preprocessing(raw, manifest.input);
  const Json& output = object_field(raw, "output");
  manifest.output_size = positive_field(output, "size", kMaxOutputSize);
  manifest.precision = read_precision(raw, version);
  manifest.batch_multiple = positive_field(raw, "batch_multiple", kMaxBatchMultiple);
  read_routing(raw, version, manifest);
  manifest.output = read_output(output, manifest.ensemble_size());
  read_profiles(raw, manifest);
  read_class_names(raw, manifest);
  read_files(raw, manifest);
  read_tensorrt(raw, manifest);
  return manifest;
}

}  // namespace vmoe::sdk
