// Sparse layers: gates, routers and experts.
#include <string>
#include <vector>

#include "core/expert_block.h"
#include "core/mlp.h"
#include "core/router.h"
#include "core/routing.h"
#include "core/workspace.h"
#include "onnxruntime/op.h"
#include "onnxruntime/weights.h"

namespace vmoe::ort {
namespace {

Kernel make_gates(const NodeInfo& node) {
  using Input = ops::GatesInput;
  return [router = NodeLinear(node, Input::kRouter)](const Call& call) {
    const ops::Sizes& sizes = call.sizes();
    compute_gates(*router.packed(call), {}, call.data<float>(Input::kX), sizes['G'] * sizes['S'],
                  call.output<float>(ops::GatesOutput::kGates), call.runner());
  };
}

Kernel make_router_block(const NodeInfo& node) {
  using Input = ops::RouterBlockInput;
  using Output = ops::RouterBlockOutput;
  return [router = NodeLinear(node, Input::kRouter)](const Call& call) {
    const RoutingShape& shape = call.routing();
    const size_t tokens = shape.groups * shape.tokens;
    Workspace workspace;
    auto* gates = workspace.take<float>(tokens * shape.experts);
    compute_gates(*router.packed(call), {call.data<float>(Input::kLnScale), call.data<float>(Input::kLnBias)},
                  call.data<float>(Input::kX), tokens, gates, call.runner());
    route(
        shape, gates, call.output<int32_t>(Output::kSlot), call.output<float>(Output::kWeight),
        [&](size_t slots) { return call.output<int32_t>(Output::kSrc, 'M', slots); },
        call.output<int32_t>(Output::kExpert), call.runner());
  };
}

void compute_choose_tokens(const Call& call) {
  using Input = ops::ChooseTokensInput;
  using Output = ops::ChooseTokensOutput;
  choose_tokens(call.routing(), call.data<float>(Input::kGates), call.output<int32_t>(Output::kSlot),
                call.output<int32_t>(Output::kSrc), call.runner());
}

Kernel make_expert_mlp(const NodeInfo& node) {
  using Attribute = ops::ExpertMlpAttribute;
  using Input = ops::ExpertMlpInput;
  const bool dispatch_bf16 = node.attribute(Attribute::kDispatchBf16) != 0;
  return [experts = NodeMlp(node, Input::kW1, Attribute()), dispatch_bf16](const Call& call) {
    const ops::Sizes& sizes = call.sizes();
    std::vector<size_t> first(sizes['E'] + 1);
    for (size_t expert = 0; expert < first.size(); ++expert) first[expert] = expert * sizes['M'];
    compute_expert_mlp(experts.read(call), {call.data<float>(Input::kBuf), nullptr, first.data(), {}, dispatch_bf16},
                       call.output<float>(ops::ExpertMlpOutput::kOut), call.runner());
  };
}

Kernel make_expert_block(const NodeInfo& node) {
  using Attribute = ops::ExpertBlockAttribute;
  using Input = ops::ExpertBlockInput;
  const bool dispatch_bf16 = node.attribute(Attribute::kDispatchBf16) != 0;
  return [experts = NodeMlp(node, Input::kW1, Attribute()), dispatch_bf16](const Call& call) {
    const ops::Sizes& sizes = call.sizes();
    RoutedTokens routing;
    routing.tokens = sizes['G'] * sizes['S'];
    routing.choices = sizes['K'];
    routing.slots = sizes['M'];
    routing.slot = call.indices(Input::kSlot, sizes['E'] * sizes['M'], "slots");
    routing.weight = call.data<float>(Input::kWeight);
    routing.src = call.indices(Input::kSrc, routing.tokens, "tokens");
    if (const int32_t* slot = slot_without_token(routing)) {
      throw ops::OpError("slot has the number " + std::to_string(*slot) + ", but src has no token for it");
    }
    compute_expert_block(experts.read(call), {call.data<float>(Input::kLnScale), call.data<float>(Input::kLnBias)},
                         routing, dispatch_bf16, call.data<float>(Input::kX),
                         call.output<float>(ops::ExpertBlockOutput::kY), call.runner());
  };
}

}  // namespace

void add_expert_ops(OpList& list) {
  add_op(list, {ops::kGates, make_gates});
  add_op(list, {ops::kRouterBlock, make_router_block});
  add_op(list, {ops::kChooseTokens, without_state<compute_choose_tokens>});
  add_op(list, {ops::kExpertMlp, make_expert_mlp});
  add_op(list, {ops::kExpertBlock, make_expert_block, true});
}

}  // namespace vmoe::ort
