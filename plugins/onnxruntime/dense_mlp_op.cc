// VmoeDenseMlp: x, w1, b1, w2, b2 -> y = w2 . gelu_tanh(w1 . x + b1) + b2, one expert that every token visits.
#include "core/expert_mlp.h"
#include "onnxruntime/expert_weights.h"
#include "onnxruntime/op.h"

namespace vmoe::ort {
namespace {

using ops::dense_mlp::Attribute;
using ops::dense_mlp::Input;
using ops::dense_mlp::Output;

class DenseMlpKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kDenseMlp;

  explicit DenseMlpKernel(const NodeInfo& node) : weights_(node, Input::kW1, node.attribute(Attribute::kHiddenChunk)) {}

  void compute(const Call& call) const {
    compute_dense_mlp(weights_.read(call), {}, call.data<float>(Input::kX), call.sizes()['N'] * call.sizes()['T'],
                      false, call.output<float>(Output::kY), call.runner());
  }

 private:
  NodeExpertWeights weights_;
};

}  // namespace

void add_dense_mlp(OpList& list) { add_ops<DenseMlpKernel>(list); }

}  // namespace vmoe::ort
