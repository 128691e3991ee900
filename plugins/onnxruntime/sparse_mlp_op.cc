// VmoeSparseMlp: a whole MoE layer, x -> y, slot, weight.
#include "core/sparse_mlp.h"
#include "onnxruntime/expert_weights.h"
#include "onnxruntime/op.h"
#include "onnxruntime/routing_settings.h"

namespace vmoe::ort {
namespace {

constexpr ValueSpec kInputs[] = {{"x", kFloat, "GSD"},
                                 {"router", kFloat, "DE"},
                                 {"w1", kFloatOrBfloat16, "EDF"},
                                 {"b1", kFloat, "EF"},
                                 {"w2", kFloatOrBfloat16, "EFD"},
                                 {"b2", kFloat, "ED"},
                                 {"capacity", kInt64, "1", true},
                                 {"k", kInt64, "1", true},
                                 {"bpr", kInt64, "1", true}};
constexpr ValueSpec kOutputs[] = {{"y", kFloat, "GSD"}, {"slot", kInt32, "GSK", true}, {"weight", kFloat, "GSK", true}};

class SparseMlpKernel {
 public:
  static constexpr OpSpec kSpec{"VmoeSparseMlp", kInputs, 9, kOutputs, 3};

  explicit SparseMlpKernel(const NodeInfo& node)
      : settings_(node),
        weights_(node, kSpec, 2),
        kernels_(ProcessKernels()),
        dispatch_bf16_(node.Flag("dispatch_bf16")) {
    if (const std::optional<Tensor> router = node.Constant(1, "router")) {
      Sizes().Add(kInputs[1], *router);
      router_ = PackConstant(kernels_, *router);
    }
  }

  void Compute(const Call& call) const {
    Sizes sizes;
    const Tensor x = call.Input(0, sizes);
    const Tensor router = call.Input(1, sizes);
    SparseMlpWeights weights;
    weights.experts = weights_.Read(call, sizes);
    const RoutingShape shape = settings_.Read(call, 6, sizes);
    weights.router = router_ ? router_ : PackOnce(kernels_, router);
    auto* y = call.Output<float>(0, sizes);
    auto* slot = call.Output<int32_t>(1, sizes);
    auto* weight = call.Output<float>(2, sizes);
    SparseMlp(weights, shape, dispatch_bf16_, x.as<float>(), y, slot, weight, call.Runner());
  }

 private:
  RoutingSettings settings_;
  NodeExpertWeights weights_;
  const Kernels& kernels_;
  std::shared_ptr<const PackedWeights> router_;  // where constant
  bool dispatch_bf16_;
};

}  // namespace

const OrtCustomOp* SparseMlpOp() {
  static const Op<SparseMlpKernel> op;
  return &op;
}

}  // namespace vmoe::ort
