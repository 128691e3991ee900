// VmoeExpertMlp: buf, w1, b1, w2, b2 -> out.
#include <vector>

#include "onnxruntime/expert_weights.h"
#include "onnxruntime/op.h"

namespace vmoe::ort {
namespace {

constexpr ValueSpec kInputs[] = {{"buf", kFloat, "EMD"},
                                 {"w1", kFloatOrBfloat16, "EDF"},
                                 {"b1", kFloat, "EF"},
                                 {"w2", kFloatOrBfloat16, "EFD"},
                                 {"b2", kFloat, "ED"}};
constexpr ValueSpec kOutputs[] = {{"out", kFloat, "EMD"}};

class ExpertMlpKernel {
 public:
  static constexpr OpSpec kSpec{"VmoeExpertMlp", kInputs, 5, kOutputs, 1};

  explicit ExpertMlpKernel(const NodeInfo& node)
      : weights_(node, kSpec, 1), dispatch_bf16_(node.Flag("dispatch_bf16")) {}

  void Compute(const Call& call) const {
    Sizes sizes;
    const Tensor buf = call.Input(0, sizes);
    const ExpertWeights weights = weights_.Read(call, sizes);
    std::vector<size_t> first(sizes['E'] + 1);
    for (size_t expert = 0; expert < first.size(); ++expert) first[expert] = expert * sizes['M'];
    Workspace workspace;
    workspace.Reserve(ExpertMlpBytes(weights, first.back(), dispatch_bf16_));
    ExpertMlp(weights, {buf.as<float>(), nullptr, first.data()}, dispatch_bf16_, call.Output<float>(0, sizes),
              workspace, call.Runner());
  }

 private:
  NodeExpertWeights weights_;
  bool dispatch_bf16_;
};

}  // namespace

void AddExpertMlp(OpList& list) { AddOps<ExpertMlpKernel>(list); }

}  // namespace vmoe::ort
