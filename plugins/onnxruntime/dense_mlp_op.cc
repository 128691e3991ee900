// VmoeDenseMlp: x, w1, b1, w2, b2 -> y = w2 . gelu_tanh(w1 . x + b1) + b2, one expert that every token visits.
#include "core/expert_mlp.h"
#include "onnxruntime/expert_weights.h"
#include "onnxruntime/op.h"

namespace vmoe::ort {
namespace {

using ops::dense_mlp::Input;
using ops::dense_mlp::Output;

class DenseMlpKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kDenseMlp;
  static constexpr bool Takes(const ops::TypeChoice& types) { return types.w == ElementType::kFloat32; }

  explicit DenseMlpKernel(const NodeInfo& node) : weights_(node, Input::kW1) {}

  void Compute(const Call& call) const {
    const ExpertWeights weights = weights_.Read(call);
    const size_t first[] = {0, call.sizes()['N'] * call.sizes()['T']};
    Workspace workspace;
    workspace.Reserve(ExpertMlpBytes(weights, first[1], false));
    ExpertMlp(weights, {call.Data<float>(Input::kX), nullptr, first}, false, call.Output<float>(Output::kY), workspace,
              call.Runner());
  }

 private:
  NodeExpertWeights weights_;
};

}  // namespace

void AddDenseMlp(OpList& list) { AddOps<DenseMlpKernel>(list); }

}  // namespace vmoe::ort
