// VmoeSparseMlp: a whole MoE layer, x -> y, slot, weight.
#include "core/sparse_mlp.h"
#include "onnxruntime/expert_weights.h"
#include "onnxruntime/op.h"

namespace vmoe::ort {
namespace {

using ops::sparse_mlp::Attribute;
using ops::sparse_mlp::Input;
using ops::sparse_mlp::Output;

class SparseMlpKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kSparseMlp;

  explicit SparseMlpKernel(const NodeInfo& node)
      : experts_(node, Input::kW1, node.attribute(Attribute::kHiddenChunk)),
        router_(node, Input::kRouter),
        dispatch_bf16_(node.attribute(Attribute::kDispatchBf16) != 0) {}

  void compute(const Call& call) const {
    compute_sparse_mlp({router_.packed(call), experts_.read(call)}, call.routing(), dispatch_bf16_,
                       call.data<float>(Input::kX), call.output<float>(Output::kY), call.output<int32_t>(Output::kSlot),
                       call.output<float>(Output::kWeight), call.runner());
  }

 private:
  NodeExpertWeights experts_;
  NodeMatrix router_;
  bool dispatch_bf16_;
};

}  // namespace

void add_sparse_mlp(OpList& list) { add_ops<SparseMlpKernel>(list); }

}  // namespace vmoe::ort
