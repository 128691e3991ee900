// VmoeAttention: q, k, v -> y.
#include "core/attention.h"
#include "onnxruntime/op.h"
#include "onnxruntime/process_kernels.h"

namespace vmoe::ort {
namespace {

using ops::attention::Attribute;
using ops::attention::Input;
using ops::attention::Output;

class AttentionKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kAttention;

  explicit AttentionKernel(const NodeInfo& node)
      : kernels_(ProcessKernels()), heads_(static_cast<size_t>(node.attribute(Attribute::kNumHeads))) {
    if (node.attribute(Attribute::kBf16) != 0) throw ops::OpError("attribute bf16 must be 0 on this path");
  }

  void Compute(const Call& call) const {
    const ops::Sizes& sizes = call.sizes();
    if (sizes['T'] == 0) throw ops::OpError("there are no keys");
    Attention(kernels_, {sizes['N'], sizes['Q'], sizes['T'], sizes['D'], heads_}, call.Data<float>(Input::kQ),
              call.Data<float>(Input::kK), call.Data<float>(Input::kV), call.Output<float>(Output::kY), call.Runner());
  }

 private:
  const Kernels& kernels_;
  size_t heads_;
};

}  // namespace

void AddAttention(OpList& list) { AddOps<AttentionKernel>(list); }

}  // namespace vmoe::ort
