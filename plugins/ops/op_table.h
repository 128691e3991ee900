// The ops of the domain vmoe, as exporter/vmoe_export/ops/table.py declares them. Written by
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
// The element types of the types of values; what W, Q and T may be.
inline constexpr TypeChoice kTypeChoices[] = {
    {{ElementType::kFloat32, ElementType::kInt32, ElementType::kInt64, ElementType::kFloat32, ElementType::kFloat32, ElementType::kFloat32}},
    {{ElementType::kFloat32, ElementType::kInt32, ElementType::kInt64, ElementType::kFloat32, ElementType::kFloat32, ElementType::kFloat16}},
    {{ElementType::kFloat32, ElementType::kInt32, ElementType::kInt64, ElementType::kFloat32, ElementType::kFloat32, ElementType::kBfloat16}},
    {{ElementType::kFloat32, ElementType::kInt32, ElementType::kInt64, ElementType::kBfloat16, ElementType::kFloat32, ElementType::kFloat32}},
    {{ElementType::kFloat32, ElementType::kInt32, ElementType::kInt64, ElementType::kInt8, ElementType::kFloat32, ElementType::kFloat32}},
    {{ElementType::kFloat32, ElementType::kInt32, ElementType::kInt64, ElementType::kInt4, ElementType::kFloat16, ElementType::kFloat32}},
};
namespace gates {
struct Input { enum : size_t { kX, kRouter }; };
inline constexpr ValueSpec kInputs[] = {
    {"x", ValueType::kFloat32, "GSD"},
    {"router", ValueType::kFloat32, "DE"},
};
struct Output { enum : size_t { kGates }; };
inline constexpr ValueSpec kOutputs[] = {{"gates", ValueType::kFloat32, "GSE"}};
}  // namespace gates
inline constexpr OpSpec kGates{"VmoeGates", gates::kInputs, gates::kOutputs, {}, 0x1};
namespace route {
struct Input { enum : size_t { kGates, kCapacity, kK, kBpr, kPool, kMaxExperts }; };
inline constexpr ValueSpec kInputs[] = {
    {"gates", ValueType::kFloat32, "GSE"},
    {"capacity", ValueType::kInt64, "1", Presence::kSetting, kNoScale, nullptr, Setting::kCapacity},
    {"k", ValueType::kInt64, "1", Presence::kSetting, kNoScale, nullptr, Setting::kK},
    {"bpr", ValueType::kInt64, "1", Presence::kSetting, kNoScale, nullptr, Setting::kBpr},
    {"pool", ValueType::kInt64, "1", Presence::kOptional, kNoScale, nullptr, Setting::kPool},
    {"max_experts", ValueType::kInt64, "1", Presence::kOptional, kNoScale, nullptr, Setting::kMaxExperts},
};
struct Output { enum : size_t { kSlot, kWeight, kSrc, kExpert }; };
inline constexpr ValueSpec kOutputs[] = {
    {"slot", ValueType::kInt32, "GSK"},
    {"weight", ValueType::kFloat32, "GSK"},
    {"src", ValueType::kInt32, "EM"},
    {"expert", ValueType::kInt32, "GSK", Presence::kOptional},
};
}  // namespace route
inline constexpr OpSpec kRoute{"VmoeRoute", route::kInputs, route::kOutputs, {}, 0x1};
namespace dispatch {
struct Input { enum : size_t { kX, kSrc }; };
inline constexpr ValueSpec kInputs[] = {
    {"x", ValueType::kT, "GSD"},
    {"src", ValueType::kInt32, "EM"},
};
struct Output { enum : size_t { kBuf }; };
inline constexpr ValueSpec kOutputs[] = {{"buf", ValueType::kT, "EMD"}};
}  // namespace dispatch
inline constexpr OpSpec kDispatch{"VmoeDispatch", dispatch::kInputs, dispatch::kOutputs, {}, 0x7};
namespace route_dispatch {
struct Input { enum : size_t { kGates, kX, kCapacity, kK, kBpr }; };
inline constexpr ValueSpec kInputs[] = {
    {"gates", ValueType::kFloat32, "GSE"},
    {"x", ValueType::kT, "GSD"},
    {"capacity", ValueType::kInt64, "1", Presence::kSetting, kNoScale, nullptr, Setting::kCapacity},
    {"k", ValueType::kInt64, "1", Presence::kSetting, kNoScale, nullptr, Setting::kK},
    {"bpr", ValueType::kInt64, "1", Presence::kSetting, kNoScale, nullptr, Setting::kBpr},
};
struct Output { enum : size_t { kSlot, kWeight, kBuf }; };
inline constexpr ValueSpec kOutputs[] = {
    {"slot", ValueType::kInt32, "GSK"},
    {"weight", ValueType::kFloat32, "GSK"},
    {"buf", ValueType::kT, "EMD"},
};
}  // namespace route_dispatch
inline constexpr OpSpec kRouteDispatch{"VmoeRouteDispatch", route_dispatch::kInputs, route_dispatch::kOutputs, {}, 0x7};
namespace expert_mlp {
struct Input { enum : size_t { kBuf, kW1, kB1, kW2, kB2, kW1Scale, kW2Scale }; };
inline constexpr ValueSpec kInputs[] = {
    {"buf", ValueType::kFloat32, "EMD"},
    {"w1", ValueType::kW, "EDF", Presence::kRequired, Input::kW1Scale},
    {"b1", ValueType::kFloat32, "EF"},
    {"w2", ValueType::kW, "EFD", Presence::kRequired, Input::kW2Scale},
    {"b2", ValueType::kFloat32, "ED"},
    {"w1_scale", ValueType::kQ, "EF", Presence::kScale, kNoScale, "EHF"},
    {"w2_scale", ValueType::kQ, "ED", Presence::kScale, kNoScale, "EJD"},
};
struct Output { enum : size_t { kOut }; };
inline constexpr ValueSpec kOutputs[] = {{"out", ValueType::kFloat32, "EMD"}};
struct Attribute { enum : size_t { kDispatchBf16, kHiddenChunk, kActivation }; };
inline constexpr AttributeSpec kAttributes[] = {
    {"dispatch_bf16", 0, 0, 1, 0, false},
    {"hidden_chunk", 0, 0, kNoMaximum, 'F', true},
    {"activation", 0, 0, 2, 0, false},
};
}  // namespace expert_mlp
inline constexpr OpSpec kExpertMlp{"VmoeExpertMlp", expert_mlp::kInputs, expert_mlp::kOutputs, expert_mlp::kAttributes, 0x39};
namespace combine {
struct Input { enum : size_t { kOut, kSlot, kWeight }; };
inline constexpr ValueSpec kInputs[] = {
    {"out", ValueType::kT, "EMD"},
    {"slot", ValueType::kInt32, "GSK"},
    {"weight", ValueType::kFloat32, "GSK"},
};
struct Output { enum : size_t { kY }; };
inline constexpr ValueSpec kOutputs[] = {{"y", ValueType::kT, "GSD"}};
}  // namespace combine
inline constexpr OpSpec kCombine{"VmoeCombine", combine::kInputs, combine::kOutputs, {}, 0x7};
namespace linear {
struct Input { enum : size_t { kX, kW, kB, kWScale }; };
inline constexpr ValueSpec kInputs[] = {
    {"x", ValueType::kFloat32, "NTD"},
    {"w", ValueType::kW, "DP", Presence::kRequired, Input::kWScale},
    {"b", ValueType::kFloat32, "P"},
    {"w_scale", ValueType::kQ, "P", Presence::kScale},
};
struct Output { enum : size_t { kY }; };
inline constexpr ValueSpec kOutputs[] = {{"y", ValueType::kFloat32, "NTP"}};
}  // namespace linear
inline constexpr OpSpec kLinear{"VmoeLinear", linear::kInputs, linear::kOutputs, {}, 0x19};
namespace dense_mlp {
struct Input { enum : size_t { kX, kW1, kB1, kW2, kB2, kW1Scale, kW2Scale }; };
inline constexpr ValueSpec kInputs[] = {
    {"x", ValueType::kFloat32, "NTD"},
    {"w1", ValueType::kW, "DF", Presence::kRequired, Input::kW1Scale},
    {"b1", ValueType::kFloat32, "F"},
    {"w2", ValueType::kW, "FD", Presence::kRequired, Input::kW2Scale},
    {"b2", ValueType::kFloat32, "D"},
    {"w1_scale", ValueType::kQ, "F", Presence::kScale},
    {"w2_scale", ValueType::kQ, "D", Presence::kScale},
};
struct Output { enum : size_t { kY }; };
inline constexpr ValueSpec kOutputs[] = {{"y", ValueType::kFloat32, "NTD"}};
struct Attribute { enum : size_t { kHiddenChunk, kActivation }; };
inline constexpr AttributeSpec kAttributes[] = {
    {"hidden_chunk", 0, 0, kNoMaximum, 'F', true},
    {"activation", 0, 0, 2, 0, false},
};
}  // namespace dense_mlp
inline constexpr OpSpec kDenseMlp{"VmoeDenseMlp", dense_mlp::kInputs, dense_mlp::kOutputs, dense_mlp::kAttributes, 0x19};
namespace attention {
struct Input { enum : size_t { kQ, kK, kV, kSizes }; };
inline constexpr ValueSpec kInputs[] = {
    {"q", ValueType::kFloat32, "NQD"},
    {"k", ValueType::kFloat32, "NTD"},
    {"v", ValueType::kFloat32, "NTD"},
    {"sizes", ValueType::kFloat32, "NT", Presence::kOptional},
};
struct Output { enum : size_t { kY }; };
inline constexpr ValueSpec kOutputs[] = {{"y", ValueType::kFloat32, "NQD"}};
struct Attribute { enum : size_t { kNumHeads, kBf16 }; };
inline constexpr AttributeSpec kAttributes[] = {
    {"num_heads", 1, 1, kNoMaximum, 'D', false},
    {"bf16", 0, 0, 1, 0, false},
};
}  // namespace attention
inline constexpr OpSpec kAttention{"VmoeAttention", attention::kInputs, attention::kOutputs, attention::kAttributes, 0x1};
namespace attention_block {
struct Input { enum : size_t { kX, kLnScale, kLnBias, kWq, kBq, kWk, kBk, kWv, kBv, kWo, kBo, kSizes, kToken, kMerge, kWqScale, kWkScale, kWvScale, kWoScale }; };
inline constexpr ValueSpec kInputs[] = {
    {"x", ValueType::kFloat32, "NTD"},
    {"ln_scale", ValueType::kFloat32, "D"},
    {"ln_bias", ValueType::kFloat32, "D"},
    {"wq", ValueType::kW, "DD", Presence::kRequired, Input::kWqScale},
    {"bq", ValueType::kFloat32, "D"},
    {"wk", ValueType::kW, "DD", Presence::kRequired, Input::kWkScale},
    {"bk", ValueType::kFloat32, "D"},
    {"wv", ValueType::kW, "DD", Presence::kRequired, Input::kWvScale},
    {"bv", ValueType::kFloat32, "D"},
    {"wo", ValueType::kW, "DD", Presence::kRequired, Input::kWoScale},
    {"bo", ValueType::kFloat32, "D"},
    {"sizes", ValueType::kFloat32, "NT", Presence::kOptional},
    {"token", ValueType::kInt32, "NO", Presence::kOptional},
    {"merge", ValueType::kInt64, "1", Presence::kOptional, kNoScale, nullptr, Setting::kMerge},
    {"wq_scale", ValueType::kQ, "D", Presence::kScale},
    {"wk_scale", ValueType::kQ, "D", Presence::kScale},
    {"wv_scale", ValueType::kQ, "D", Presence::kScale},
    {"wo_scale", ValueType::kQ, "D", Presence::kScale},
};
struct Output { enum : size_t { kY, kMergedSizes, kMergedToken }; };
inline constexpr ValueSpec kOutputs[] = {
    {"y", ValueType::kFloat32, "NUD"},
    {"merged_sizes", ValueType::kFloat32, "NU", Presence::kOptional},
    {"merged_token", ValueType::kInt32, "NO", Presence::kOptional},
};
struct Attribute { enum : size_t { kNumHeads, kPrefix }; };
inline constexpr AttributeSpec kAttributes[] = {
    {"num_heads", 1, 1, kNoMaximum, 'D', false},
    {"prefix", 0, 0, kNoMaximum, 0, false},
};
}  // namespace attention_block
inline constexpr OpSpec kAttentionBlock{"VmoeAttentionBlock", attention_block::kInputs, attention_block::kOutputs, attention_block::kAttributes, 0x19};
namespace class_attention_block {
using attention_block::Input, attention_block::kInputs;
struct Output { enum : size_t { kY }; };
inline constexpr ValueSpec kOutputs[] = {{"y", ValueType::kFloat32, "N1D"}};
struct Attribute { enum : size_t { kNumHeads }; };
inline constexpr AttributeSpec kAttributes[] = {{"num_heads", 1, 1, kNoMaximum, 'D', false}};
}  // namespace class_attention_block
inline constexpr OpSpec kClassAttentionBlock{"VmoeClassAttentionBlock", class_attention_block::kInputs, class_attention_block::kOutputs, class_attention_block::kAttributes, 0x19};
namespace merge {
struct Input { enum : size_t { kX, kK, kSizes, kToken, kMerge }; };
inline constexpr ValueSpec kInputs[] = {
    {"x", ValueType::kFloat32, "NTD"},
    {"k", ValueType::kFloat32, "NTD"},
    {"sizes", ValueType::kFloat32, "NT"},
    {"token", ValueType::kInt32, "NO"},
    {"merge", ValueType::kInt64, "1", Presence::kSetting, kNoScale, nullptr, Setting::kMerge},
};
struct Output { enum : size_t { kY, kMergedSizes, kMergedToken }; };
inline constexpr ValueSpec kOutputs[] = {
    {"y", ValueType::kFloat32, "NUD"},
    {"merged_sizes", ValueType::kFloat32, "NU"},
    {"merged_token", ValueType::kInt32, "NO"},
};
using attention_block::Attribute, attention_block::kAttributes;
}  // namespace merge
inline constexpr OpSpec kMerge{"VmoeMerge", merge::kInputs, merge::kOutputs, merge::kAttributes, 0x1};
namespace mlp_block {
struct Input { enum : size_t { kX, kLnScale, kLnBias, kW1, kB1, kW2, kB2, kW1Scale, kW2Scale }; };
inline constexpr ValueSpec kInputs[] = {
    {"x", ValueType::kFloat32, "NTD"},
    {"ln_scale", ValueType::kFloat32, "D"},
    {"ln_bias", ValueType::kFloat32, "D"},
    {"w1", ValueType::kW, "DF", Presence::kRequired, Input::kW1Scale},
    {"b1", ValueType::kFloat32, "F"},
    {"w2", ValueType::kW, "FD", Presence::kRequired, Input::kW2Scale},
    {"b2", ValueType::kFloat32, "D"},
    {"w1_scale", ValueType::kQ, "F", Presence::kScale},
    {"w2_scale", ValueType::kQ, "D", Presence::kScale},
};
using dense_mlp::Output, dense_mlp::kOutputs;
using dense_mlp::Attribute, dense_mlp::kAttributes;
}  // namespace mlp_block
inline constexpr OpSpec kMlpBlock{"VmoeMlpBlock", mlp_block::kInputs, mlp_block::kOutputs, mlp_block::kAttributes, 0x19};
namespace router_block {
struct Input { enum : size_t { kX, kLnScale, kLnBias, kRouter, kCapacity, kK, kBpr, kPool, kMaxExperts }; };
inline constexpr ValueSpec kInputs[] = {
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
using route::Output, route::kOutputs;
}  // namespace router_block
inline constexpr OpSpec kRouterBlock{"VmoeRouterBlock", router_block::kInputs, router_block::kOutputs, {}, 0x1};
namespace expert_block {
struct Input { enum : size_t { kX, kLnScale, kLnBias, kSlot, kWeight, kSrc, kW1, kB1, kW2, kB2, kW1Scale, kW2Scale }; };
inline constexpr ValueSpec kInputs[] = {
    {"x", ValueType::kFloat32, "GSD"},
    {"ln_scale", ValueType::kFloat32, "D"},
    {"ln_bias", ValueType::kFloat32, "D"},
    {"slot", ValueType::kInt32, "GSK"},
    {"weight", ValueType::kFloat32, "GSK"},
    {"src", ValueType::kInt32, "EM"},
    {"w1", ValueType::kW, "EDF", Presence::kRequired, Input::kW1Scale},
    {"b1", ValueType::kFloat32, "EF"},
    {"w2", ValueType::kW, "EFD", Presence::kRequired, Input::kW2Scale},
    {"b2", ValueType::kFloat32, "ED"},
    {"w1_scale", ValueType::kQ, "EF", Presence::kScale, kNoScale, "EHF"},
    {"w2_scale", ValueType::kQ, "ED", Presence::kScale, kNoScale, "EJD"},
};
struct Output { enum : size_t { kY }; };
inline constexpr ValueSpec kOutputs[] = {{"y", ValueType::kFloat32, "GSD"}};
using expert_mlp::Attribute, expert_mlp::kAttributes;
}  // namespace expert_block
inline constexpr OpSpec kExpertBlock{"VmoeExpertBlock", expert_block::kInputs, expert_block::kOutputs, expert_block::kAttributes, 0x39};
namespace choose_tokens {
struct Input { enum : size_t { kGates, kCapacity }; };
inline constexpr ValueSpec kInputs[] = {
    {"gates", ValueType::kFloat32, "GSE"},
    {"capacity", ValueType::kInt64, "1", Presence::kSetting, kNoScale, nullptr, Setting::kCapacity},
};
struct Output { enum : size_t { kSlot, kSrc }; };
inline constexpr ValueSpec kOutputs[] = {
    {"slot", ValueType::kInt32, "GSE"},
    {"src", ValueType::kInt32, "EM"},
};
}  // namespace choose_tokens
inline constexpr OpSpec kChooseTokens{"VmoeChooseTokens", choose_tokens::kInputs, choose_tokens::kOutputs, {}, 0x1};
namespace soft_router {
struct Input { enum : size_t { kX, kMu, kScale }; };
inline constexpr ValueSpec kInputs[] = {
    {"x", ValueType::kFloat32, "GSD"},
    {"mu", ValueType::kFloat32, "DEP"},
    {"scale", ValueType::kFloat32, ""},
};
struct Output { enum : size_t { kDispatch, kCombine }; };
inline constexpr ValueSpec kOutputs[] = {
    {"dispatch", ValueType::kFloat32, "GSEP"},
    {"combine", ValueType::kFloat32, "GSEP"},
};
}  // namespace soft_router
inline constexpr OpSpec kSoftRouter{"VmoeSoftRouter", soft_router::kInputs, soft_router::kOutputs, {}, 0x1};
namespace soft_dispatch {
struct Input { enum : size_t { kX, kDispatch }; };
inline constexpr ValueSpec kInputs[] = {
    {"x", ValueType::kFloat32, "GSD"},
    {"dispatch", ValueType::kFloat32, "GSEP"},
};
struct Output { enum : size_t { kBuf }; };
inline constexpr ValueSpec kOutputs[] = {{"buf", ValueType::kFloat32, "EMD"}};
struct Attribute { enum : size_t { kDispatchBf16 }; };
inline constexpr AttributeSpec kAttributes[] = {{"dispatch_bf16", 0, 0, 1, 0, false}};
}  // namespace soft_dispatch
inline constexpr OpSpec kSoftDispatch{"VmoeSoftDispatch", soft_dispatch::kInputs, soft_dispatch::kOutputs, soft_dispatch::kAttributes, 0x1};
namespace soft_combine {
struct Input { enum : size_t { kOut, kCombine }; };
inline constexpr ValueSpec kInputs[] = {
    {"out", ValueType::kFloat32, "EMD"},
    {"combine", ValueType::kFloat32, "GSEP"},
};
using expert_block::Output, expert_block::kOutputs;
using soft_dispatch::Attribute, soft_dispatch::kAttributes;
}  // namespace soft_combine
inline constexpr OpSpec kSoftCombine{"VmoeSoftCombine", soft_combine::kInputs, soft_combine::kOutputs, soft_combine::kAttributes, 0x1};

// The most inputs and outputs that an op has.
inline constexpr size_t kMaxInputs = 18;
inline constexpr size_t kMaxOutputs = 4;

}  // namespace vmoe::ops
