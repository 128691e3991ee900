// VmoeAttention: q, k, v -> y.
#include "core/attention.h"
#include "core/tile_attention.h"
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
      : kernels_(ProcessKernels()),
        heads_(static_cast<size_t>(node.attribute(Attribute::kNumHeads))),
        bf16_(node.attribute(Attribute::kBf16) != 0) {}

  void Compute(const Call& call) const {
    const ops::Sizes& sizes = call.sizes();
    if (sizes['T'] == 0) throw ops::OpError("there are no keys");
    const AttentionShape shape{sizes['N'], sizes['Q'], sizes['T'], sizes['D'], heads_};
    const auto* q = call.Data<float>(Input::kQ);
    const auto* k = call.Data<float>(Input::kK);
    const auto* v = call.Data<float>(Input::kV);
    auto* y = call.Output<float>(Output::kY);
    if (bf16_) {
      TileAttention(TileKernelsFor(kernels_.path), shape, q, k, v, y, call.Runner());
    } else {
      Attention(kernels_, shape, q, k, v, y, call.Runner());
    }
  }

 private:
  const Kernels& kernels_;
  size_t heads_;
  bool bf16_;
};

}  // namespace

void AddAttention(OpList& list) { AddOps<AttentionKernel>(list); }

}  // namespace vmoe::ort
