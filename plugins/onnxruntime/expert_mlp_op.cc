// VmoeExpertMlp: buf, w1, b1, w2, b2 -> out.
#include <vector>

#include "core/expert_mlp.h"
#include "onnxruntime/expert_weights.h"
#include "onnxruntime/op.h"

namespace vmoe::ort {
namespace {

using ops::expert_mlp::Attribute;
using ops::expert_mlp::Input;
using ops::expert_mlp::Output;

class ExpertMlpKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kExpertMlp;

  explicit ExpertMlpKernel(const NodeInfo& node)
      : weights_(node, Input::kW1, node.attribute(Attribute::kHiddenChunk)),
        dispatch_bf16_(node.attribute(Attribute::kDispatchBf16) != 0) {}

  void compute(const Call& call) const {
    const ops::Sizes& sizes = call.sizes();
    const ExpertWeights weights = weights_.read(call);
    std::vector<size_t> first(sizes['E'] + 1);
    for (size_t expert = 0; expert < first.size(); ++expert) first[expert] = expert * sizes['M'];
    compute_expert_mlp(weights, {call.data<float>(Input::kBuf), nullptr, first.data(), {}}, dispatch_bf16_,
                       call.output<float>(Output::kOut), call.runner());
  }

 private:
  NodeExpertWeights weights_;
  bool dispatch_bf16_;
};

}  // namespace

void add_expert_mlp(OpList& list) { add_ops<ExpertMlpKernel>(list); }

}  // namespace vmoe::ort
