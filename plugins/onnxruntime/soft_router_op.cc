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
std::shared_ptr<const PackedWeights> SlotsOf(const Tensor& mu) {
  const auto size = [&](size_t dim) { return static_cast<size_t>(mu.shape.sizes[dim]); };
  return PackSlots(ProcessKernels(), mu.as<float>(), size(0), size(1) * size(2));
}

class SoftRouterKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kSoftRouter;

  explicit SoftRouterKernel(const NodeInfo& node) {
    if (const std::optional<Tensor> mu = node.Constant(Input::kMu)) constant_ = SlotsOf(*mu);
  }

  void Compute(const Call& call) const {
    const std::shared_ptr<const PackedWeights> slots = constant_ ? constant_ : SlotsOf(call.Input(Input::kMu));
    SoftRouter(*slots, *call.Data<float>(Input::kScale), SoftShapeOf(call.sizes()), call.Data<float>(Input::kX),
               call.Output<float>(Output::kDispatch), call.Output<float>(Output::kCombine), call.Runner());
  }

 private:
  std::shared_ptr<const PackedWeights> constant_;  // where mu is known at load
};

}  // namespace

void AddSoftRouter(OpList& list) { AddOps<SoftRouterKernel>(list); }

}  // namespace vmoe::ort
