// VmoeLinear: x, w, b -> y = x . w + b.
#include "core/linear.h"
#include "onnxruntime/expert_weights.h"
#include "onnxruntime/op.h"

namespace vmoe::ort {
namespace {

constexpr ValueSpec kInputs[] = {{"x", kFloat, "NTD"}, {"w", kFloat, "DP"}, {"b", kFloat, "P"}};
constexpr ValueSpec kOutputs[] = {{"y", kFloat, "NTP"}};

class LinearKernel {
 public:
  static constexpr OpSpec kSpec{"VmoeLinear", kInputs, 3, kOutputs, 1};

  explicit LinearKernel(const NodeInfo& node) : kernels_(ProcessKernels()) {
    if (const std::optional<Tensor> w = node.Constant(1, "w")) {
      Sizes().Add(kInputs[1], *w);
      w_ = PackConstant(kernels_, *w);
    }
  }

  void Compute(const Call& call) const {
    Sizes sizes;
    const Tensor x = call.Input(0, sizes);
    const Tensor w = call.Input(1, sizes);
    const Tensor b = call.Input(2, sizes);
    const auto packed = w_ ? w_ : PackOnce(kernels_, w);
    Linear(*packed, b.as<float>(), x.as<float>(), sizes['N'] * sizes['T'], call.Output<float>(0, sizes), call.Runner());
  }

 private:
  const Kernels& kernels_;
  std::shared_ptr<const PackedWeights> w_;  // where constant
};

}  // namespace

const OrtCustomOp* LinearOp() {
  static const Op<LinearKernel> op;
  return &op;
}

}  // namespace vmoe::ort
