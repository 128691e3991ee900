// The ops of the domain vmoe. Generated from exporter/vmoe_export/ops/table.py by
//
//   python tools/cpp_headers.py
//
// clang-format off
#pragma once

#include <cstddef>

#include "ops/op_spec.h"

namespace vmoe::ops {

struct Setting { enum : size_t { kCapacity, kK, kBpr, kPool, kMaxExperts, kMerge }; };
inline constexpr SettingSpec kSettings[] = {
    {"capacity", 1, kNoMaximum},
    {"k", 1, kNoMaximum},
    {"bpr", 0, 1},
    {"pool", 0, 1},
    {"max_experts", 1, kNoMaximum},
    {"merge", 0, kNoMaximum},
};
// The element type of each value type, for each choice of W, Q and T.
inline constexpr TypeChoice kTypeChoices[] = {
    {{ElementType::kFloat32, ElementType::kInt32, ElementType::kInt64, ElementType::kFloat32, ElementType::kFloat32, ElementType::kFloat32}},
    {{ElementType::kFloat32, ElementType::kInt32, ElementType::kInt64, ElementType::kFloat32, ElementType::kFloat32, ElementType::kFloat16}},
    {{ElementType::kFloat32, ElementType::kInt32, ElementType::kInt64, ElementType::kFloat32, ElementType::kFloat32, ElementType::kBfloat16}},
    {{ElementType::kFloat32, ElementType::kInt32, ElementType::kInt64, ElementType::kBfloat16, ElementType::kFloat32, ElementType::kFloat32}},
    {{ElementType::kFloat32, ElementType::kInt32, ElementType::kInt64, ElementType::kInt8, ElementType::kFloat32, ElementType::kFloat32}},
    {{ElementType::kFloat32, ElementType::kInt32, ElementType::kInt64, ElementType::kInt4, ElementType::kFloat16, ElementType::kFloat32}},
};

struct GatesInput { enum : size_t { kX, kRouter }; };
inline constexpr ValueSpec kGatesInputs[] = {
    {"x", ValueType::kFloat32, "GSD"},
    {"router", ValueType::kFloat32, "DE"},
};
struct GatesOutput { enum : size_t { kGates }; };
inline constexpr ValueSpec kGatesOutputs[] = {{"gates", ValueType::kFloat32, "GSE"}};
inline constexpr OpSpec kGates{"VmoeGates", kGatesInputs, kGatesOutputs, {}, 0x1};

struct RouteInput { enum : size_t { kGates, kCapacity, kK, kBpr, kPool, kMaxExperts }; };
inline constexpr ValueSpec kRouteInputs[] = {
    {"gates", ValueType::kFloat32, "GSE"},
    {"capacity", ValueType::kInt64, "1", Presence::kSetting, kNoScale, nullptr, Setting::kCapacity},
    {"k", ValueType::kInt64, "1", Presence::kSetting, kNoScale, nullptr, Setting::kK},
    {"bpr", ValueType::kInt64, "1", Presence::kSetting, kNoScale, nullptr, Setting::kBpr},
    {"pool", ValueType::kInt64, "1", Presence::kOptional, kNoScale, nullptr, Setting::kPool},
    {"max_experts", ValueType::kInt64, "1", Presence::kOptional, kNoScale, nullptr, Setting::kMaxExperts},
};
struct RouteOutput { enum : size_t { kSlot, kWeight, kSrc, kExpert }; };
inline constexpr ValueSpec kRouteOutputs[] = {
    {"slot", ValueType::kInt32, "GSK"},
    {"weight", ValueType::kFloat32, "GSK"},
    {"src", ValueType::kInt32, "EM"},
    {"expert", ValueType::kInt32, "GSK", Presence::kOptional},
};
inline constexpr OpSpec kRoute{"VmoeRoute", kRouteInputs, kRouteOutputs, {}, 0x1};

struct DispatchInput { enum : size_t { kX, kSrc }; };
inline constexpr ValueSpec kDispatchInputs[] = {
    {"x", ValueType::kT, "GSD"},
    {"src", ValueType::kInt32, "EM"},
};
struct DispatchOutput { enum : size_t { kBuf }; };
inline constexpr ValueSpec kDispatchOutputs[] = {{"buf", ValueType::kT, "EMD"}};
inline constexpr OpSpec kDispatch{"VmoeDispatch", kDispatchInputs, kDispatchOutputs, {}, 0x7};

struct RouteDispatchInput { enum : size_t { kGates, kX, kCapacity, kK, kBpr }; };
inline constexpr ValueSpec kRouteDispatchInputs[] = {
    {"gates", ValueType::kFloat32, "GSE"},
    {"x", ValueType::kT, "GSD"},
    {"capacity", ValueType::kInt64, "1", Presence::kSetting, kNoScale, nullptr, Setting::kCapacity},
    {"k", ValueType::kInt64, "1", Presence::kSetting, kNoScale, nullptr, Setting::kK},
    {"bpr", ValueType::kInt64, "1", Presence::kSetting, kNoScale, nullptr, Setting::kBpr},
};
struct RouteDispatchOutput { enum : size_t { kSlot, kWeight, kBuf }; };
inline constexpr ValueSpec kRouteDispatchOutputs[] = {
    {"slot", ValueType::kInt32, "GSK"},
    {"weight", ValueType::kFloat32, "GSK"},
    {"buf", ValueType::kT, "EMD"},
};
inline constexpr OpSpec kRouteDispatch{"VmoeRouteDispatch", kRouteDispatchInputs, kRouteDispatchOutputs, {}, 0x7};

struct ExpertMlpInput { enum : size_t { kBuf, kW1, kB1, kW2, kB2, kW1Scale, kW2Scale }; };
inline constexpr ValueSpec kExpertMlpInputs[] = {
    {"buf", ValueType::kFloat32, "EMD"},
    {"w1", ValueType::kW, "EDF", Presence::kRequired, ExpertMlpInput::kW1Scale},
    {"b1", ValueType::kFloat32, "EF"},
    {"w2", ValueType::kW, "EFD", Presence::kRequired, ExpertMlpInput::kW2Scale},
    {"b2", ValueType::kFloat32, "ED"},
    {"w1_scale", ValueType::kQ, "EF", Presence::kScale, kNoScale, "EHF"},
    {"w2_scale", ValueType::kQ, "ED", Presence::kScale, kNoScale, "EJD"},
};
struct ExpertMlpOutput { enum : size_t { kOut }; };
inline constexpr ValueSpec kExpertMlpOutputs[] = {{"out", ValueType::kFloat32, "EMD"}};
struct ExpertMlpAttribute { enum : size_t { kDispatchBf16, kHiddenChunk, kActivation }; };
inline constexpr AttributeSpec kExpertMlpAttributes[] = {
    {"dispatch_bf16", 0, 0, 1, 0, false},
    {"hidden_chunk", 0, 0, kNoMaximum, 'F', true},
    {"activation", 0, 0, 3, 0, false},
};
inline constexpr OpSpec kExpertMlp{"VmoeExpertMlp", kExpertMlpInputs, kExpertMlpOutputs, kExpertMlpAttributes, 0x39};

struct CombineInput { enum : size_t { kOut, kSlot, kWeight }; };
inline constexpr ValueSpec kCombineInputs[] = {
    {"out", ValueType::kT, "EMD"},
    {"slot", ValueType::kInt32, "GSK"},
    {"weight", ValueType::kFloat32, "GSK"},
};
struct CombineOutput { enum : size_t { kY }; };
inline constexpr ValueSpec kCombineOutputs[] = {{"y", ValueType::kT, "GSD"}};
inline constexpr OpSpec kCombine{"VmoeCombine", kCombineInputs, kCombineOutputs, {}, 0x7};

struct LinearInput { enum : size_t { kX, kW, kB, kWScale }; };
inline constexpr ValueSpec kLinearInputs[] = {
    {"x", ValueType::kFloat32, "NTD"},
    {"w", ValueType::kW, "DP", Presence::kRequired, LinearInput::kWScale},
    {"b", ValueType::kFloat32, "P"},
    {"w_scale", ValueType::kQ, "P", Presence::kScale},
};
struct LinearOutput { enum : size_t { kY }; };
inline constexpr ValueSpec kLinearOutputs[] = {{"y", ValueType::kFloat32, "NTP"}};
inline constexpr OpSpec kLinear{"VmoeLinear", kLinearInputs, kLinearOutputs, {}, 0x19};

struct DenseMlpInput { enum : size_t { kX, kW1, kB1, kW2, kB2, kW1Scale, kW2Scale, kWg, kBg, kWgScale, kHiddenLnScale, kHiddenLnBias }; };
inline constexpr ValueSpec kDenseMlpInputs[] = {
    {"x", ValueType::kFloat32, "NTD"},
    {"w1", ValueType::kW, "DF", Presence::kRequired, DenseMlpInput::kW1Scale},
    {"b1", ValueType::kFloat32, "F"},
    {"w2", ValueType::kW, "FD", Presence::kRequired, DenseMlpInput::kW2Scale},
    {"b2", ValueType::kFloat32, "D"},
    {"w1_scale", ValueType::kQ, "F", Presence::kScale},
    {"w2_scale", ValueType::kQ, "D", Presence::kScale},
    {"wg", ValueType::kW, "DF", Presence::kOptional, DenseMlpInput::kWgScale},
    {"bg", ValueType::kFloat32, "F", Presence::kOptional},
    {"wg_scale", ValueType::kQ, "F", Presence::kScale},
    {"hidden_ln_scale", ValueType::kFloat32, "F", Presence::kOptional},
    {"hidden_ln_bias", ValueType::kFloat32, "F", Presence::kOptional},
};
struct DenseMlpOutput { enum : size_t { kY }; };
inline constexpr ValueSpec kDenseMlpOutputs[] = {{"y", ValueType::kFloat32, "NTD"}};
struct DenseMlpAttribute { enum : size_t { kHiddenChunk, kActivation }; };
inline constexpr AttributeSpec kDenseMlpAttributes[] = {
    {"hidden_chunk", 0, 0, kNoMaximum, 'F', true},
    {"activation", 0, 0, 3, 0, false},
};
inline constexpr OpSpec kDenseMlp{"VmoeDenseMlp", kDenseMlpInputs, kDenseMlpOutputs, kDenseMlpAttributes, 0x19};

struct AttentionInput { enum : size_t { kQ, kK, kV, kSizes }; };
inline constexpr ValueSpec kAttentionInputs[] = {
    {"q", ValueType::kFloat32, "NQD"},
    {"k", ValueType::kFloat32, "NTD"},
    {"v", ValueType::kFloat32, "NTD"},
    {"sizes", ValueType::kFloat32, "NT", Presence::kOptional},
};
struct AttentionOutput { enum : size_t { kY }; };
inline constexpr ValueSpec kAttentionOutputs[] = {{"y", ValueType::kFloat32, "NQD"}};
struct AttentionAttribute { enum : size_t { kNumHeads, kBf16 }; };
inline constexpr AttributeSpec kAttentionAttributes[] = {
    {"num_heads", 1, 1, kNoMaximum, 'D', false},
    {"bf16", 0, 0, 1, 0, false},
};
inline constexpr OpSpec kAttention{"VmoeAttention", kAttentionInputs, kAttentionOutputs, kAttentionAttributes, 0x1};

struct RotateInput { enum : size_t { kX, kCoordinates, kFrequencies }; };
inline constexpr ValueSpec kRotateInputs[] = {
    {"x", ValueType::kFloat32, "NTD"},
    {"coordinates", ValueType::kFloat32, "NTC"},
    {"frequencies", ValueType::kFloat32, "CA"},
};
using RotateOutput = DenseMlpOutput;
struct RotateAttribute { enum : size_t { kNumHeads }; };
inline constexpr AttributeSpec kRotateAttributes[] = {{"num_heads", 1, 1, kNoMaximum, 'D', false}};
inline constexpr OpSpec kRotate{"VmoeRotate", kRotateInputs, kDenseMlpOutputs, kRotateAttributes, 0x1};

struct AttentionBlockInput { enum : size_t { kX, kLnScale, kLnBias, kWq, kBq, kWk, kBk, kWv, kBv, kWo, kBo, kSizes, kToken, kMerge, kWqScale, kWkScale, kWvScale, kWoScale, kCoordinates, kFrequencies, kMixedLnScale, kMixedLnBias }; };
inline constexpr ValueSpec kAttentionBlockInputs[] = {
    {"x", ValueType::kFloat32, "NTD"},
    {"ln_scale", ValueType::kFloat32, "D"},
    {"ln_bias", ValueType::kFloat32, "D", Presence::kOptional},
    {"wq", ValueType::kW, "DD", Presence::kRequired, AttentionBlockInput::kWqScale},
    {"bq", ValueType::kFloat32, "D"},
    {"wk", ValueType::kW, "DD", Presence::kRequired, AttentionBlockInput::kWkScale},
    {"bk", ValueType::kFloat32, "D"},
    {"wv", ValueType::kW, "DD", Presence::kRequired, AttentionBlockInput::kWvScale},
    {"bv", ValueType::kFloat32, "D"},
    {"wo", ValueType::kW, "DD", Presence::kRequired, AttentionBlockInput::kWoScale},
    {"bo", ValueType::kFloat32, "D"},
    {"sizes", ValueType::kFloat32, "NT", Presence::kOptional},
    {"token", ValueType::kInt32, "NO", Presence::kOptional},
    {"merge", ValueType::kInt64, "1", Presence::kOptional, kNoScale, nullptr, Setting::kMerge},
    {"wq_scale", ValueType::kQ, "D", Presence::kScale},
    {"wk_scale", ValueType::kQ, "D", Presence::kScale},
    {"wv_scale", ValueType::kQ, "D", Presence::kScale},
    {"wo_scale", ValueType::kQ, "D", Presence::kScale},
    {"coordinates", ValueType::kFloat32, "NTC", Presence::kOptional},
    {"frequencies", ValueType::kFloat32, "CA", Presence::kOptional},
    {"mixed_ln_scale", ValueType::kFloat32, "D", Presence::kOptional},
    {"mixed_ln_bias", ValueType::kFloat32, "D", Presence::kOptional},
};
struct AttentionBlockOutput { enum : size_t { kY, kMergedSizes, kMergedToken, kMergedCoordinates }; };
inline constexpr ValueSpec kAttentionBlockOutputs[] = {
    {"y", ValueType::kFloat32, "NUD"},
    {"merged_sizes", ValueType::kFloat32, "NU", Presence::kOptional},
    {"merged_token", ValueType::kInt32, "NO", Presence::kOptional},
    {"merged_coordinates", ValueType::kFloat32, "NUC", Presence::kOptional},
};
struct AttentionBlockAttribute { enum : size_t { kNumHeads, kPrefix }; };
inline constexpr AttributeSpec kAttentionBlockAttributes[] = {
    {"num_heads", 1, 1, kNoMaximum, 'D', false},
    {"prefix", 0, 0, kNoMaximum, 0, false},
};
inline constexpr OpSpec kAttentionBlock{"VmoeAttentionBlock", kAttentionBlockInputs, kAttentionBlockOutputs, kAttentionBlockAttributes, 0x19};

using ClassAttentionBlockInput = AttentionBlockInput;
struct ClassAttentionBlockOutput { enum : size_t { kY }; };
inline constexpr ValueSpec kClassAttentionBlockOutputs[] = {{"y", ValueType::kFloat32, "N1D"}};
using ClassAttentionBlockAttribute = RotateAttribute;
inline constexpr OpSpec kClassAttentionBlock{"VmoeClassAttentionBlock", kAttentionBlockInputs, kClassAttentionBlockOutputs, kRotateAttributes, 0x19};

struct MergeInput { enum : size_t { kX, kK, kSizes, kToken, kMerge, kCoordinates }; };
inline constexpr ValueSpec kMergeInputs[] = {
    {"x", ValueType::kFloat32, "NTD"},
    {"k", ValueType::kFloat32, "NTD"},
    {"sizes", ValueType::kFloat32, "NT"},
    {"token", ValueType::kInt32, "NO"},
    {"merge", ValueType::kInt64, "1", Presence::kSetting, kNoScale, nullptr, Setting::kMerge},
    {"coordinates", ValueType::kFloat32, "NTC", Presence::kOptional},
};
struct MergeOutput { enum : size_t { kY, kMergedSizes, kMergedToken, kMergedCoordinates }; };
inline constexpr ValueSpec kMergeOutputs[] = {
    {"y", ValueType::kFloat32, "NUD"},
    {"merged_sizes", ValueType::kFloat32, "NU"},
    {"merged_token", ValueType::kInt32, "NO"},
    {"merged_coordinates", ValueType::kFloat32, "NUC", Presence::kOptional},
};
using MergeAttribute = AttentionBlockAttribute;
inline constexpr OpSpec kMerge{"VmoeMerge", kMergeInputs, kMergeOutputs, kAttentionBlockAttributes, 0x1};

struct MlpBlockInput { enum : size_t { kX, kLnScale, kLnBias, kW1, kB1, kW2, kB2, kW1Scale, kW2Scale, kWg, kBg, kWgScale, kHiddenLnScale, kHiddenLnBias }; };
inline constexpr ValueSpec kMlpBlockInputs[] = {
    {"x", ValueType::kFloat32, "NTD"},
    {"ln_scale", ValueType::kFloat32, "D"},
    {"ln_bias", ValueType::kFloat32, "D", Presence::kOptional},
    {"w1", ValueType::kW, "DF", Presence::kRequired, MlpBlockInput::kW1Scale},
    {"b1", ValueType::kFloat32, "F"},
    {"w2", ValueType::kW, "FD", Presence::kRequired, MlpBlockInput::kW2Scale},
    {"b2", ValueType::kFloat32, "D"},
    {"w1_scale", ValueType::kQ, "F", Presence::kScale},
    {"w2_scale", ValueType::kQ, "D", Presence::kScale},
    {"wg", ValueType::kW, "DF", Presence::kOptional, MlpBlockInput::kWgScale},
    {"bg", ValueType::kFloat32, "F", Presence::kOptional},
    {"wg_scale", ValueType::kQ, "F", Presence::kScale},
    {"hidden_ln_scale", ValueType::kFloat32, "F", Presence::kOptional},
    {"hidden_ln_bias", ValueType::kFloat32, "F", Presence::kOptional},
};
using MlpBlockOutput = DenseMlpOutput;
using MlpBlockAttribute = DenseMlpAttribute;
inline constexpr OpSpec kMlpBlock{"VmoeMlpBlock", kMlpBlockInputs, kDenseMlpOutputs, kDenseMlpAttributes, 0x19};

struct RouterBlockInput { enum : size_t { kX, kLnScale, kLnBias, kRouter, kCapacity, kK, kBpr, kPool, kMaxExperts }; };
inline constexpr ValueSpec kRouterBlockInputs[] = {
    {"x", ValueType::kFloat32, "GSD"},
    {"ln_scale", ValueType::kFloat32, "D"},
    {"ln_bias", ValueType::kFloat32, "D"},
    {"router", ValueType::kFloat32, "DE"},
    {"capacity", ValueType::kInt64, "1", Presence::kSetting, kNoScale, nullptr, Setting::kCapacity},
    {"k", ValueType::kInt64, "1", Presence::kSetting, kNoScale, nullptr, Setting::kK},
    {"bpr", ValueType::kInt64, "1", Presence::kSetting, kNoScale, nullptr, Setting::kBpr},
    {"pool", ValueType::kInt64, "1", Presence::kOptional, kNoScale, nullptr, Setting::kPool},
    {"max_experts", ValueType::kInt64, "1", Presence::kOptional, kNoScale, nullptr, Setting::kMaxExperts},
};
using RouterBlockOutput = RouteOutput;
inline constexpr OpSpec kRouterBlock{"VmoeRouterBlock", kRouterBlockInputs, kRouteOutputs, {}, 0x1};

struct ExpertBlockInput { enum : size_t { kX, kLnScale, kLnBias, kSlot, kWeight, kSrc, kW1, kB1, kW2, kB2, kW1Scale, kW2Scale }; };
inline constexpr ValueSpec kExpertBlockInputs[] = {
    {"x", ValueType::kFloat32, "GSD"},
    {"ln_scale", ValueType::kFloat32, "D"},
    {"ln_bias", ValueType::kFloat32, "D"},
    {"slot", ValueType::kInt32, "GSK"},
    {"weight", ValueType::kFloat32, "GSK"},
    {"src", ValueType::kInt32, "EM"},
    {"w1", ValueType::kW, "EDF", Presence::kRequired, ExpertBlockInput::kW1Scale},
    {"b1", ValueType::kFloat32, "EF"},
    {"w2", ValueType::kW, "EFD", Presence::kRequired, ExpertBlockInput::kW2Scale},
    {"b2", ValueType::kFloat32, "ED"},
    {"w1_scale", ValueType::kQ, "EF", Presence::kScale, kNoScale, "EHF"},
    {"w2_scale", ValueType::kQ, "ED", Presence::kScale, kNoScale, "EJD"},
};
struct ExpertBlockOutput { enum : size_t { kY }; };
inline constexpr ValueSpec kExpertBlockOutputs[] = {{"y", ValueType::kFloat32, "GSD"}};
using ExpertBlockAttribute = ExpertMlpAttribute;
inline constexpr OpSpec kExpertBlock{"VmoeExpertBlock", kExpertBlockInputs, kExpertBlockOutputs, kExpertMlpAttributes, 0x39};

struct ChooseTokensInput { enum : size_t { kGates, kCapacity }; };
inline constexpr ValueSpec kChooseTokensInputs[] = {
    {"gates", ValueType::kFloat32, "GSE"},
    {"capacity", ValueType::kInt64, "1", Presence::kSetting, kNoScale, nullptr, Setting::kCapacity},
};
struct ChooseTokensOutput { enum : size_t { kSlot, kSrc }; };
inline constexpr ValueSpec kChooseTokensOutputs[] = {
    {"slot", ValueType::kInt32, "GSE"},
    {"src", ValueType::kInt32, "EM"},
};
inline constexpr OpSpec kChooseTokens{"VmoeChooseTokens", kChooseTokensInputs, kChooseTokensOutputs, {}, 0x1};

struct SoftRouterInput { enum : size_t { kX, kMu, kScale }; };
inline constexpr ValueSpec kSoftRouterInputs[] = {
    {"x", ValueType::kFloat32, "GSD"},
    {"mu", ValueType::kFloat32, "DEP"},
    {"scale", ValueType::kFloat32, ""},
};
struct SoftRouterOutput { enum : size_t { kDispatch, kCombine }; };
inline constexpr ValueSpec kSoftRouterOutputs[] = {
    {"dispatch", ValueType::kFloat32, "GSEP"},
    {"combine", ValueType::kFloat32, "GSEP"},
};
inline constexpr OpSpec kSoftRouter{"VmoeSoftRouter", kSoftRouterInputs, kSoftRouterOutputs, {}, 0x1};

struct SoftDispatchInput { enum : size_t { kX, kDispatch }; };
inline constexpr ValueSpec kSoftDispatchInputs[] = {
    {"x", ValueType::kFloat32, "GSD"},
    {"dispatch", ValueType::kFloat32, "GSEP"},
};
struct SoftDispatchOutput { enum : size_t { kBuf }; };
inline constexpr ValueSpec kSoftDispatchOutputs[] = {{"buf", ValueType::kFloat32, "EMD"}};
struct SoftDispatchAttribute { enum : size_t { kDispatchBf16 }; };
inline constexpr AttributeSpec kSoftDispatchAttributes[] = {{"dispatch_bf16", 0, 0, 1, 0, false}};
inline constexpr OpSpec kSoftDispatch{"VmoeSoftDispatch", kSoftDispatchInputs, kSoftDispatchOutputs, kSoftDispatchAttributes, 0x1};

struct SoftCombineInput { enum : size_t { kOut, kCombine }; };
inline constexpr ValueSpec kSoftCombineInputs[] = {
    {"out", ValueType::kFloat32, "EMD"},
    {"combine", ValueType::kFloat32, "GSEP"},
};
using SoftCombineOutput = ExpertBlockOutput;
using SoftCombineAttribute = SoftDispatchAttribute;
inline constexpr OpSpec kSoftCombine{"VmoeSoftCombine", kSoftCombineInputs, kExpertBlockOutputs, kSoftDispatchAttributes, 0x1};

// The largest number of inputs that an op has, and the largest number of outputs.
inline constexpr size_t kMaxInputs = 22;
inline constexpr size_t kMaxOutputs = 4;

}  // namespace vmoe::ops
