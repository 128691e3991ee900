// VmoeDenseMlp: x, w1, b1, w2, b2 -> y = w2 . gelu_tanh(w1 . x + b1) + b2, one expert that every token visits.
#include "core/expert_mlp.h"
#include "onnxruntime/expert_weights.h"
#include "onnxruntime/op.h"

namespace vmoe::ort {
namespace {

constexpr ValueSpec kInputs[] = {
    {"x", kFloat, "NTD"}, {"w1", kFloat, "DF"}, {"b1", kFloat, "F"}, {"w2", kFloat, "FD"}, {"b2", kFloat, "D"}};
constexpr ValueSpec kOutputs[] = {{"y", kFloat, "NTD"}};

class DenseMlpKernel {
 public:
  static constexpr OpSpec kSpec{"VmoeDenseMlp", kInputs, 5, kOutputs, 1};

  explicit DenseMlpKernel(const NodeInfo& node) : weights_(node, kSpec, 1) {}

  void Compute(const Call& call) const {
    Sizes sizes;
    const Tensor x = call.Input(0, sizes);
    const ExpertWeights weights = weights_.Read(call, sizes);
    const size_t first[] = {0, sizes['N'] * sizes['T']};
    Workspace workspace;
    workspace.Reserve(ExpertMlpBytes(weights, first[1], false));
    ExpertMlp(weights, {x.as<float>(), nullptr, first}, false, call.Output<float>(0, sizes), workspace, call.Runner());
  }

 private:
  NodeExpertWeights weights_;
};

}  // namespace

void AddDenseMlp(OpList& list) { AddOps<DenseMlpKernel>(list); }

}  // namespace vmoe::ort
