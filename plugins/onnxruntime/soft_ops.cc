// Soft MoE: its router, dispatch and combine.
#include <memory>
#include <optional>

#include "core/soft_moe.h"
#include "onnxruntime/op.h"
#include "onnxruntime/weights.h"

namespace vmoe::ort {
namespace {

SoftShape soft_shape_of(const ops::Sizes& sizes) {
  return {sizes['G'], sizes['S'], sizes['D'], sizes['E'], sizes['P']};
}

// Packs the slot parameters mu, whose shape is [D, E, P].
std::shared_ptr<const PackedWeights> slots_of(const Tensor& mu) {
  const auto size = [&](size_t dim) { return static_cast<size_t>(mu.shape.sizes[dim]); };
  return pack_slots(process_kernels(), mu.as<float>(), size(0), size(1) * size(2));
}

Kernel make_soft_router(const NodeInfo& node) {
  using Input = ops::SoftRouterInput;
  using Output = ops::SoftRouterOutput;
  const std::optional<Tensor> mu = node.constant_input(Input::kMu);
  return [constant = mu ? slots_of(*mu) : nullptr](const Call& call) {
    const auto slots = constant ? constant : slots_of(call.input(Input::kMu));
    compute_soft_router(*slots, *call.data<float>(Input::kScale), soft_shape_of(call.sizes()),
                        call.data<float>(Input::kX), call.output<float>(Output::kDispatch),
                        call.output<float>(Output::kCombine), call.runner());
  };
}

Kernel make_soft_dispatch(const NodeInfo& node) {
  using Input = ops::SoftDispatchInput;
  return [bf16 = node.attribute(ops::SoftDispatchAttribute::kDispatchBf16) != 0](const Call& call) {
    soft_dispatch(process_kernels(), soft_shape_of(call.sizes()), bf16, call.data<float>(Input::kX),
                  call.data<float>(Input::kDispatch), call.output<float>(ops::SoftDispatchOutput::kBuf), call.runner());
  };
}

Kernel make_soft_combine(const NodeInfo& node) {
  using Input = ops::SoftCombineInput;
  return [bf16 = node.attribute(ops::SoftCombineAttribute::kDispatchBf16) != 0](const Call& call) {
    soft_combine(process_kernels(), soft_shape_of(call.sizes()), bf16, call.data<float>(Input::kOut),
                 call.data<float>(Input::kCombine), call.output<float>(ops::SoftCombineOutput::kY), call.runner());
  };
}

}  // namespace

void add_soft_ops(OpList& list) {
  add_op(list, {ops::kSoftRouter, make_soft_router});
  add_op(list, {ops::kSoftDispatch, make_soft_dispatch});
  add_op(list, {ops::kSoftCombine, make_soft_combine});
}

}  // namespace vmoe::ort
