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

  void Compute(const Call& call) const {
    SparseMlp({router_.Packed(call), experts_.Read(call)}, call.routing(), dispatch_bf16_, call.Data<float>(Input::kX),
              call.Output<float>(Output::kY), call.Output<int32_t>(Output::kSlot), call.Output<float>(Output::kWeight),
              call.Runner());
  }

 private:
  NodeExpertWeights experts_;
  NodeMatrix router_;
  bool dispatch_bf16_;
};

}  // namespace

void AddSparseMlp(OpList& list) { AddOps<SparseMlpKernel>(list); }

}  // namespace vmoe::ort
