// The rules of bundles and of elastic capacity that Python and C++ share. Generated from vmoe_runtime and vmoe_serve by
//
//   python tools/cpp_headers.py
//
// clang-format off
#pragma once

#include <cstddef>
#include <cstdint>

#include "sdk/field_row.h"
#include "vmoe/engine.h"

namespace vmoe::sdk {

inline constexpr char kFormat[] = "vmoe-bundle";
inline constexpr int64_t kFormatVersion = 3;
inline constexpr char kManifestName[] = "manifest.json";
inline constexpr char kWeightsName[] = "weights.safetensors";
inline constexpr char kCanonicalGraph[] = "model.onnx";
inline constexpr char kInlinedGraph[] = "model.inlined.onnx";
inline constexpr char kMergingGraph[] = "model.merging.onnx";
inline constexpr char kImageInput[] = "image";
inline constexpr const char* kOutputs[] = {"logits", "members", "features", "tokens"};
inline constexpr const char* kProbabilities[] = {"softmax", "sigmoid"};
inline constexpr char kLayerPrefix[] = "layer";
inline constexpr char kDenseGraphKey[] = "model";
inline constexpr const char* kPrecisions[] = {"fp32", "bf16", "int8", "int4", "bf16-experts"};
inline constexpr const char* kRoutingKinds[] = {"top-k", "experts-choice", "soft"};
inline constexpr const char* kSettingKinds[] = {"dense", "top-k", "ensemble", "experts-choice", "soft"};
inline constexpr int64_t kMaxManifestBytes = 16777216;
inline constexpr int64_t kMaxGraphBytes = 67108864;
inline constexpr int64_t kMaxName = 121;
inline constexpr char kFilePattern[] = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,120}";
inline constexpr char kSha256Pattern[] = "[0-9a-f]{64}";
inline constexpr char kBlockPattern[] = "encoderblock_[0-9]{1,6}";
inline constexpr char kGroupPattern[] = "image|batch|(tokens:)?([1-9][0-9]{0,8})";
inline constexpr int64_t kMaxMoeLayers = 1000;
inline constexpr int64_t kMaxBlock = 999999;
inline constexpr int64_t kMaxOutputSize = 16777216;
inline constexpr int64_t kMaxSteps = 6;
inline constexpr int64_t kMaxSide = 65536;
inline constexpr int64_t kMaxResizedSide = 8388608;
inline constexpr int64_t kMaxPillowPixels = 16777216;
inline constexpr char kStepPattern[] = "((?:round_)?central_crop|(?:resize|pillow_bilinear|pillow_bicubic)(?:_small)?)\\(([1-9][0-9]{0,4})(?:,([1-9][0-9]{0,4}))?\\)";
inline constexpr char kBackgroundPattern[] = "background\\(([0-9]{1,3}),([0-9]{1,3}),([0-9]{1,3})\\)";
inline constexpr char kRotation[] = "exif";
inline constexpr char kKnownSteps[] = "resize_small(N), central_crop(N), resize(N), pillow_bilinear_small(N), pillow_bicubic_small(N), pillow_bilinear(N), pillow_bicubic(N), round_central_crop(N), and before them exif and background(R,G,B)";
inline constexpr int64_t kMaxJsonDepth = 64;
inline constexpr int64_t kMaxGraphDepth = 64;
inline constexpr int64_t kMaxOpset = 1000;
inline constexpr int64_t kMaxByteDigits = 18;
inline constexpr int64_t kMaxMassTokens = 131071;
inline constexpr int64_t kSmallGroup = 128;
inline constexpr int64_t kMaxThreads = 64;
inline constexpr int64_t kMaxThreadsPerProcessor = 4;
inline constexpr int64_t kLargestFloat = 2;
inline constexpr int64_t kGreyWeights[] = {19595, 38470, 7471};
inline constexpr char kProfilePattern[] = "(?:-c([0-9]+(?:\\.[0-9]+)?(?:e-?[0-9]+)?))?(?:-k([0-9]{1,6}))?(-vanilla)?(-pool)?(?:-m([0-9]{1,6}))?(?:-r([0-9]{1,6}))?";
inline constexpr double kSafetyMargin = 0.75;
inline constexpr double kUtilizationLimit = 0.95;
inline constexpr double kHeadroom = 0.8;
inline constexpr double kMemory = 5.0;
inline constexpr double kCooldown = 10.0;
inline constexpr double kLearned = 0.125;
inline constexpr double kDrift = 0.00390625;
inline constexpr double kLeastScale = 1e-06;
inline constexpr double kMostScale = 1000000.0;
inline constexpr int64_t kMostLevels = 1024;
inline constexpr int64_t kMostImages = 65536;
inline constexpr double kLongestSeconds = 1000000.0;

enum : unsigned { kOfDense = 1, kOfTopK = 2, kOfEnsemble = 4, kOfExpertsChoice = 8, kOfSoft = 16, kOfEnd = 32 };
inline constexpr unsigned kOfRoutingKinds[] = {kOfTopK, kOfExpertsChoice, kOfSoft};

// The enum values in engine.h, in the order of the names above.
inline constexpr vmoe_output kOutputCodes[] = {VMOE_LOGITS, VMOE_MEMBERS, VMOE_FEATURES, VMOE_TOKENS};
inline constexpr vmoe_precision kPrecisionCodes[] = {VMOE_FP32, VMOE_BF16, VMOE_INT8, VMOE_INT4, VMOE_BF16_EXPERTS};
inline constexpr vmoe_probabilities kProbabilitiesCodes[] = {VMOE_SOFTMAX, VMOE_SIGMOID};
inline constexpr vmoe_routing_kind kRoutingKindCodes[] = {VMOE_TOP_K, VMOE_EXPERTS_CHOICE, VMOE_SOFT};

inline constexpr Field kManifestFields[] = {
    {"", "model", FieldType::kObject, 0, false, ~0U, {}},
    {"", "input", FieldType::kObject, 0, false, ~0U, {}},
    {"input", "name", FieldType::kText, 0, false, ~0U, {"image"}},
    {"input", "dtype", FieldType::kText, 0, false, ~0U, {"float32", "uint8"}},
    {"input", "height", FieldType::kWhole, 65536, false, ~0U, {}},
    {"input", "width", FieldType::kWhole, 65536, false, ~0U, {}},
    {"input", "channels", FieldType::kWhole, 65536, false, ~0U, {}},
    {"", "preprocessing", FieldType::kObject, 0, false, ~0U, {}},
    {"preprocessing", "steps", FieldType::kText, 0, false, ~0U, {}},
    {"", "output", FieldType::kObject, 0, false, ~0U, {}},
    {"output", "name", FieldType::kText, 0, false, ~0U, {"logits", "members", "features", "tokens"}},
    {"output", "size", FieldType::kWhole, 16777216, false, ~0U, {}},
    {"output", "tokens", FieldType::kWhole, 16777216, true, kOfDense | kOfTopK | kOfExpertsChoice | kOfSoft, {}},
    {"", "layers", FieldType::kObject, 0, true, kOfDense | kOfTopK | kOfExpertsChoice | kOfSoft, {}},
    {"layers", "blocks", FieldType::kList, 0, false, kOfDense | kOfTopK | kOfExpertsChoice | kOfSoft, {}},
    {"layers", "tokens", FieldType::kWhole, 16777216, false, kOfDense | kOfTopK | kOfExpertsChoice | kOfSoft, {}},
    {"layers", "size", FieldType::kWhole, 16777216, false, kOfDense | kOfTopK | kOfExpertsChoice | kOfSoft, {}},
    {"", "class_names", FieldType::kList, 0, true, ~0U, {}},
    {"", "probabilities", FieldType::kText, 0, true, ~0U, {"softmax", "sigmoid"}},
    {"", "precision", FieldType::kText, 0, false, ~0U, {"fp32", "bf16", "int8", "int4", "bf16-experts"}},
    {"", "batch_multiple", FieldType::kWhole, 65536, false, ~0U, {}},
    {"", "image_tokens", FieldType::kWhole, 2147483647, true, kOfDense | kOfTopK | kOfExpertsChoice | kOfSoft, {}},
    {"", "routing", FieldType::kObject, 0, true, ~0U, {}},
    {"routing", "layers", FieldType::kList, 0, false, ~0U, {}},
    {"routing", "num_experts", FieldType::kWhole, 65536, false, ~0U, {}},
    {"routing", "layer_experts", FieldType::kList, 0, true, ~0U, {}},
    {"routing", "group", FieldType::kText, 0, false, ~0U, {}},
    {"routing", "group_tokens", FieldType::kWhole, 2147483647, false, ~0U, {}},
    {"routing", "rounding", FieldType::kText, 0, false, kOfTopK | kOfEnsemble | kOfExpertsChoice, {"ceil", "round"}},
    {"routing", "capacity_multiple_of", FieldType::kWhole, 2147483647, false, kOfTopK | kOfEnsemble | kOfExpertsChoice, {}},
    {"routing", "slots_per_expert", FieldType::kWhole, 65536, false, kOfSoft, {}},
    {"routing", "ensemble_size", FieldType::kWhole, 65536, true, kOfTopK | kOfEnsemble, {}},
    {"", "profiles", FieldType::kList, 0, false, ~0U, {}},
    {"", "graphs", FieldType::kObject, 0, false, ~0U, {}},
    {"graphs", "canonical", FieldType::kText, 0, false, ~0U, {"model.onnx"}},
    {"graphs", "inlined", FieldType::kText, 0, false, ~0U, {"model.inlined.onnx"}},
    {"graphs", "merging", FieldType::kText, 0, true, kOfDense | kOfTopK | kOfExpertsChoice | kOfSoft, {"model.merging.onnx"}},
    {"", "tensorrt", FieldType::kObject, 0, true, ~0U, {}},
    {"tensorrt", "precision", FieldType::kText, 0, false, ~0U, {"fp32", "fp16", "bf16"}},
    {"tensorrt", "graphs", FieldType::kObject, 0, false, ~0U, {}},
    {"", "files", FieldType::kObject, 0, false, ~0U, {}},
};

inline constexpr Field kKindFields[] = {
    {"", "routing", FieldType::kObject, 0, true, ~0U, {}},
    {"routing", "kind", FieldType::kText, 0, false, ~0U, {"top-k", "experts-choice", "soft"}},
};

inline constexpr Field kProfileFields[] = {
    {"", "name", FieldType::kText, 0, false, ~0U, {}},
    {"", "capacity_ratio", FieldType::kNumber, 0, false, kOfTopK | kOfEnsemble | kOfExpertsChoice, {}},
    {"", "k", FieldType::kWhole, 65536, false, kOfTopK | kOfEnsemble, {}},
    {"", "bpr", FieldType::kFlag, 0, false, kOfTopK | kOfEnsemble, {}},
    {"", "pool", FieldType::kFlag, 0, false, kOfTopK, {}},
    {"", "max_experts", FieldType::kWhole, 65536, false, kOfTopK, {}},
    {"", "merge", FieldType::kCount, 65536, true, kOfDense | kOfTopK | kOfExpertsChoice | kOfSoft, {}},
    {"", "capacity", FieldType::kList, 0, false, kOfTopK | kOfEnsemble | kOfExpertsChoice, {}},
};

inline constexpr Field kFileFields[] = {
    {"", "sha256", FieldType::kText, 0, false, ~0U, {}},
    {"", "bytes", FieldType::kWhole, 9007199254740992, false, ~0U, {}},
};

// The protobuf messages of an ONNX model that contain tensors or operator sets, directly or in child messages.
enum class Message { kModel, kTraining, kGraph, kFunction, kNode, kAttribute, kSparseTensor, kTensor, kOpset, kEntry };
struct ChildMessage { Message parent; uint32_t field; Message message; };
inline constexpr ChildMessage kChildMessages[] = {
    {Message::kModel, 7, Message::kGraph},
    {Message::kModel, 8, Message::kOpset},
    {Message::kModel, 20, Message::kTraining},
    {Message::kModel, 25, Message::kFunction},
    {Message::kTraining, 1, Message::kGraph},
    {Message::kTraining, 2, Message::kGraph},
    {Message::kGraph, 1, Message::kNode},
    {Message::kGraph, 5, Message::kTensor},
    {Message::kGraph, 15, Message::kSparseTensor},
    {Message::kFunction, 7, Message::kNode},
    {Message::kFunction, 9, Message::kOpset},
    {Message::kFunction, 11, Message::kAttribute},
    {Message::kNode, 5, Message::kAttribute},
    {Message::kAttribute, 5, Message::kTensor},
    {Message::kAttribute, 6, Message::kGraph},
    {Message::kAttribute, 10, Message::kTensor},
    {Message::kAttribute, 11, Message::kGraph},
    {Message::kAttribute, 22, Message::kSparseTensor},
    {Message::kAttribute, 23, Message::kSparseTensor},
    {Message::kSparseTensor, 1, Message::kTensor},
    {Message::kSparseTensor, 2, Message::kTensor},
    {Message::kTensor, 13, Message::kEntry},
};

}  // namespace vmoe::sdk
