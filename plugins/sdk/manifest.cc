#include "sdk/manifest.h"

#include <algorithm>
#include <utility>

#include "sdk/error.h"
#include "sdk/json_fields.h"

namespace vmoe::sdk {

namespace {

constexpr char kFormat[] = "vmoe-bundle";
constexpr int64_t kFormatVersion = 2;
constexpr int64_t kMaxPixels = 65'536;  // of a side, and channels
constexpr int64_t kMaxBatchMultiple = 65'536;
// Callers allocate this many floats per image; no head comes near it.
constexpr int64_t kMaxOutputSize = int64_t{1} << 24;
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

bool is_block_name(std::string_view name) {
  if (name.substr(0, kBlockPrefix.size()) != kBlockPrefix) return false;
  name.remove_prefix(kBlockPrefix.size());
  return !name.empty() && name.size() <= kMaxBlockDigits && std::all_of(name.begin(), name.end(), is_digit);
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
  constexpr vmoe_precision kPrecisions[] = {VMOE_FP32, VMOE_BF16, VMOE_INT8, VMOE_BF16_EXPERTS};
  return kPrecisions[choice_field(raw, "precision", {"fp32", "bf16", "int8", "bf16-experts"})];
}

InputSpec read_input(const Json& image) {
  InputSpec input;
  input.dtype = choice_field(image, "dtype", {"float32", "uint8"}) == 0 ? VMOE_FLOAT32 : VMOE_UINT8;
  input.height = positive_field(image, "height", kMaxPixels);
  input.width = positive_field(image, "width", kMaxPixels);
  input.channels = positive_field(image, "channels", kMaxPixels);
  return input;
}

void read_routing(const Json& raw, Manifest& manifest) {
  if (optional_field(raw, "routing") == nullptr) return;
  const Json& routing = object_field(raw, "routing");
  for (const Json& layer : array_field(routing, "layers")) {
    if (!layer.is_string() || !is_block_name(layer.get_ref<const std::string&>())) {
      fail(VMOE_BUNDLE_ERROR, kManifestName, ": 'layers' must name encoder blocks");
    }
    manifest.moe_layers.push_back(layer.get<std::string>());
  }
  if (manifest.moe_layers.empty()) fail(VMOE_BUNDLE_ERROR, kManifestName, ": 'layers' must name encoder blocks");
  RoutingRules rules;
  rules.num_experts = positive_field(routing, "num_experts");
  rules.group_tokens = positive_field(routing, "group_tokens");
  rules.num_moe_layers = manifest.moe_layers.size();
  rules.rounding = choice_field(routing, "rounding", {"ceil", "round"}) == 0 ? Rounding::kCeil : Rounding::kHalfToEven;
  rules.capacity_multiple_of = positive_field(routing, "capacity_multiple_of");
  manifest.rules = rules;
  manifest.group = string_field(routing, "group");
}

Profile read_profile(const Json& entry, const RoutingRules& rules) {
  const std::string name = string_field(entry, "name");
  const Json& capacity = array_field(entry, "capacity");
  const double ratio = number_field(entry, "capacity_ratio");
  const int64_t k = positive_field(entry, "k");
  const bool bpr = bool_field(entry, "bpr");
  Profile computed;
  try {
    computed = rules.profile(ratio, k, bpr);
  } catch (const Error& error) {
    fail(VMOE_BUNDLE_ERROR, kManifestName, ": profile ", in_quotes(name), ": ", error.what());
  }
  if (capacity != Json(computed.capacity) || computed.name != name) {
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
    manifest.files[name] = {string_field(entry, "sha256"), positive_field(entry, "bytes")};
  }
  for (const char* name : {kWeightsName, kCanonicalGraph, kInlinedGraph}) {
    if (manifest.files.count(name) == 0) fail(VMOE_BUNDLE_ERROR, kManifestName, ": the bundle has no ", name);
  }
}

}  // namespace

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
  const Json& output = object_field(raw, "output");
  manifest.output_size = positive_field(output, "size", kMaxOutputSize);
  manifest.output = choice_field(output, "name", {"logits", "features"}) == 0 ? VMOE_LOGITS : VMOE_FEATURES;
  manifest.precision = read_precision(raw, version);
  manifest.batch_multiple = positive_field(raw, "batch_multiple", kMaxBatchMultiple);
  read_routing(raw, manifest);
  read_profiles(raw, manifest);
  read_class_names(raw, manifest);
  read_files(raw, manifest);
  return manifest;
}

}  // namespace vmoe::sdk
