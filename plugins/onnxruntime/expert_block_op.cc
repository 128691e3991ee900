// VmoeExpertBlock: x, slot, weight, src -> y = x + combine(experts(dispatch(norm(x)))).
#include <string>

#include "core/expert_block.h"
#include "onnxruntime/expert_weights.h"
#include "onnxruntime/op.h"
#include "onnxruntime/places.h"

namespace vmoe::ort {
namespace {

using ops::expert_block::Attribute;
using ops::expert_block::Input;
using ops::expert_block::Output;

class ExpertBlockKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kExpertBlock;
  static constexpr bool kInPlace = true;

  explicit ExpertBlockKernel(const NodeInfo& node)
      : weights_(node, Input::kW1, node.attribute(Attribute::kHiddenChunk)),
        dispatch_bf16_(node.attribute(Attribute::kDispatchBf16) != 0) {}

  void compute(const Call& call) const {
    const ops::Sizes& sizes = call.sizes();
    ExpertBlockRouting routing;
    routing.tokens = sizes['G'] * sizes['S'];
    routing.choices = sizes['K'];
    routing.places = sizes['M'];
    routing.slot = call.data<int32_t>(Input::kSlot);
    routing.weight = call.data<float>(Input::kWeight);
    routing.src = call.data<int32_t>(Input::kSrc);
    const size_t places = sizes['E'] * sizes['M'];
    check_slots(routing.slot, routing.tokens * routing.choices, places);
    check_sources(routing.src, places, routing.tokens);
    if (const int32_t* slot = slot_without_token(routing)) {
      throw ops::OpError("slot has the place " + std::to_string(*slot) + ", but src has no token for it");
    }
    compute_expert_block(weights_.read(call), {call.data<float>(Input::kLnScale), call.data<float>(Input::kLnBias)},
                         routing, dispatch_bf16_, call.data<float>(Input::kX), call.output<float>(Output::kY),
                         call.runner());
  }

 private:
  NodeExpertWeights weights_;
  bool dispatch_bf16_;
};

}  // namespace

void add_expert_block(OpList& list) { add_ops<ExpertBlockKernel>(list); }

}  // namespace vmoe::ort
