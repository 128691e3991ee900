#include "sdk/manifest.h"

#include <algorithm>
#include <set>
#include <utility>

#include "sdk/error.h"
#include "sdk/json_fields.h"
#include "sdk/manifest_routing.h"

namespace vmoe::sdk {

namespace {

constexpr char kFormat[] = "vmoe-bundle";
constexpr int64_t kFormatVersion = 3;
constexpr int64_t kMaxPixels = 65'536;  // of a side, and channels
constexpr int64_t kMaxBatchMultiple = 65'536;
// Callers allocate this many floats per image; no head comes near it.
constexpr int64_t kMaxOutputSize = int64_t{1} << 24;
constexpr int64_t kMaxFileBytes = int64_t{1} << 53;
constexpr char kOnlyGraphKey[] = "model";  // stands for a profile's name where there are none
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

Patches read_patches(const Json& model, const InputSpec& input) {
  const Json* size = optional_field(model, "patch_size");
  const auto fits = [](const Json& side, int64_t whole) {
    return side.is_number_unsigned() && side > 0 && side <= whole;
  };
  if (size == nullptr || !size->is_array() || size->size() != 2) return {};
  if (!fits((*size)[0], input.height) || !fits((*size)[1], input.width)) return {};
  const Json* classifier = optional_field(model, "classifier");
  return {input.height / (*size)[0].get<int64_t>(), input.width / (*size)[1].get<int64_t>(),
          classifier != nullptr && *classifier == "token"};
}

Preprocessing read_preprocessing(const Json& raw, const InputSpec& input) {
  constexpr char kSquash[] =
      R"({"antialias":false,"resize":"bilinear","value_range":[-1,1]})";  // before there were steps
  if (optional_field(raw, "preprocessing") == nullptr) return squash(input.height, input.width);
  const Json& entry = object_field(raw, "preprocessing");
  if (entry.dump() == kSquash) return squash(input.height, input.width);
  return read_steps(string_field(entry, "steps"), input.height, input.width);
}

vmoe_output read_output(const Json& output, int64_t ensemble_size) {
  if (ensemble_size > 1) return choice_field(output, "name", {"logits", "members"}) == 0 ? VMOE_LOGITS : VMOE_MEMBERS;
  return choice_field(output, "name", {"logits", "features"}) == 0 ? VMOE_LOGITS : VMOE_FEATURES;
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
    const bool known = manifest.profiles.empty() ? name == kOnlyGraphKey : manifest.find_profile(name) != nullptr;
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
  const Json& model = object_field(raw, "model");
  Manifest manifest;
  manifest.input = read_input(object_field(raw, "input"));
  manifest.patches = read_patches(model, manifest.input);
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
