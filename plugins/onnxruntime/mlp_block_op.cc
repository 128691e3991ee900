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

  void compute(const Call& call) const {
    compute_dense_mlp(weights_.read(call), {call.data<float>(Input::kLnScale), call.data<float>(Input::kLnBias)},
                      call.data<float>(Input::kX), call.sizes()['N'] * call.sizes()['T'], true,
                      call.output<float>(Output::kY), call.runner());
  }

 private:
  NodeExpertWeights weights_;
};

}  // namespace

void add_mlp_block(OpList& list) { add_ops<MlpBlockKernel>(list); }

}  // namespace vmoe::ort
