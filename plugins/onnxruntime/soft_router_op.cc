// VmoeSoftRouter: x, mu, scale -> dispatch, combine.
#include <memory>
#include <optional>

#include "core/soft_moe.h"
#include "onnxruntime/op.h"
#include "onnxruntime/process_kernels.h"
#include "onnxruntime/soft_sizes.h"

namespace vmoe::ort {
namespace {

using ops::soft_router::Input;
using ops::soft_router::Output;

// Of mu [D, E, P].
std::shared_ptr<const PackedWeights> slots_of(const Tensor& mu) {
  const auto size = [&](size_t dim) { return static_cast<size_t>(mu.shape.sizes[dim]); };
  return pack_slots(process_kernels(), mu.as<float>(), size(0), size(1) * size(2));
}

class SoftRouterKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kSoftRouter;

  explicit SoftRouterKernel(const NodeInfo& node) {
    if (const std::optional<Tensor> mu = node.constant_input(Input::kMu)) constant_ = slots_of(*mu);
  }

  void compute(const Call& call) const {
    const std::shared_ptr<const PackedWeights> slots = constant_ ? constant_ : slots_of(call.input(Input::kMu));
    compute_soft_router(*slots, *call.data<float>(Input::kScale), soft_shape_of(call.sizes()),
                        call.data<float>(Input::kX), call.output<float>(Output::kDispatch),
                        call.output<float>(Output::kCombine), call.runner());
  }

 private:
  std::shared_ptr<const PackedWeights> constant_;  // where mu is known at load
};

}  // namespace

void add_soft_router(OpList& list) { add_ops<SoftRouterKernel>(list); }

}  // namespace vmoe::ort
