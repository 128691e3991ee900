// VmoeAttention: q, k, v -> y.
#include <string>

#include "core/attention.h"
#include "onnxruntime/op.h"
#include "onnxruntime/process_kernels.h"

namespace vmoe::ort {
namespace {

constexpr ValueSpec kInputs[] = {{"q", kFloat, "NQD"}, {"k", kFloat, "NTD"}, {"v", kFloat, "NTD"}};
constexpr ValueSpec kOutputs[] = {{"y", kFloat, "NQD"}};

class AttentionKernel {
 public:
  static constexpr OpSpec kSpec{"VmoeAttention", kInputs, 3, kOutputs, 1};

  explicit AttentionKernel(const NodeInfo& node)
      : kernels_(ProcessKernels()), heads_(node.Attribute("num_heads").value_or(1)) {
    if (heads_ < 1) throw OpError("attribute num_heads must be at least 1, not " + std::to_string(heads_));
  }

  void Compute(const Call& call) const {
    Sizes sizes;
    const Tensor q = call.Input(0, sizes);
    const Tensor k = call.Input(1, sizes);
    const Tensor v = call.Input(2, sizes);
    const auto heads = static_cast<size_t>(heads_);
    if (sizes['D'] % heads != 0) {
      throw OpError("q has shape " + ShapeText(q.shape) + ", whose last dimension is no multiple of num_heads, " +
                    std::to_string(heads));
    }
    if (sizes['T'] == 0) throw OpError("there are no keys");
    Attention(kernels_, {sizes['N'], sizes['Q'], sizes['T'], sizes['D'], heads}, q.as<float>(), k.as<float>(),
              v.as<float>(), call.Output<float>(0, sizes), call.Runner());
  }

 private:
  const Kernels& kernels_;
  int64_t heads_;
};

}  // namespace

void AddAttention(OpList& list) { AddOps<AttentionKernel>(list); }

}  // namespace vmoe::ort
