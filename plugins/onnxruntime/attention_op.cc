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
      : kernels_(process_kernels()),
        heads_(static_cast<size_t>(node.attribute(Attribute::kNumHeads))),
        bf16_(node.attribute(Attribute::kBf16) != 0) {}

  void compute(const Call& call) const {
    const ops::Sizes& sizes = call.sizes();
    if (sizes['T'] == 0) throw ops::OpError("there are no keys");
    const AttentionShape shape{sizes['N'], sizes['Q'], sizes['T'], sizes['D'], heads_};
    const auto* q = call.data<float>(Input::kQ);
    const auto* k = call.data<float>(Input::kK);
    const auto* v = call.data<float>(Input::kV);
    auto* y = call.output<float>(Output::kY);
    if (bf16_) {
      compute_tile_attention(tile_kernels_for(kernels_.path), shape, q, k, v, y, call.runner());
    } else {
      compute_attention(kernels_, shape, q, k, v, y, call.runner());
    }
  }

 private:
  const Kernels& kernels_;
  size_t heads_;
  bool bf16_;
};

}  // namespace

void add_attention(OpList& list) { add_ops<AttentionKernel>(list); }

}  // namespace vmoe::ort
