// VmoeMlpBlock: x -> y = x + MLP(norm(x)).
#include "core/expert_mlp.h"
#include "onnxruntime/expert_weights.h"
#include "onnxruntime/op.h"

namespace vmoe::ort {
namespace {

using ops::mlp_block::Attribute;
using ops::mlp_block::Input;
using ops::mlp_block::Output;

class MlpBlockKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kMlpBlock;
  static constexpr bool kInPlace = true;

  explicit MlpBlockKernel(const NodeInfo& node) : weights_(node, Input::kW1, node.attribute(Attribute::kHiddenChunk)) {}

  void Compute(const Call& call) const {
    DenseMlp(weights_.Read(call), {call.Data<float>(Input::kLnScale), call.Data<float>(Input::kLnBias)},
             call.Data<float>(Input::kX), call.sizes()['N'] * call.sizes()['T'], true, call.Output<float>(Output::kY),
             call.Runner());
  }

 private:
  NodeExpertWeights weights_;
};

}  // namespace

void AddMlpBlock(OpList& list) { AddOps<MlpBlockKernel>(list); }

}  // namespace vmoe::ort
