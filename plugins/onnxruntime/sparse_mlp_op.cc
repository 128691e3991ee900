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

  explicit SparseMlpKernel(const NodeInfo& node) : SparseMlpKernel(node, Sizes()) {}

  void Compute(const Call& call) const {
    Sizes sizes;
    const Tensor x = call.Input(0, sizes);
    const Tensor router = call.Input(1, sizes);
    SparseMlpWeights weights;
    weights.experts = weights_.Read(call, sizes);
    const RoutingShape shape = settings_.Read(call, 6, sizes);
    weights.router = router_.Packed(router);
    auto* y = call.Output<float>(0, sizes);
    auto* slot = call.Output<int32_t>(1, sizes);
    auto* weight = call.Output<float>(2, sizes);
    SparseMlp(weights, shape, dispatch_bf16_, x.as<float>(), y, slot, weight, call.Runner());
  }

 private:
  RoutingSettings settings_;
  NodeExpertWeights weights_;
  NodeMatrix router_;
  bool dispatch_bf16_;

  SparseMlpKernel(const NodeInfo& node, Sizes sizes)
      : settings_(node),
        weights_(node, kSpec, 2),
        router_(CheckedConstant(node, kSpec, 1, sizes)),
        dispatch_bf16_(node.Flag("dispatch_bf16")) {}
};

}  // namespace

void AddSparseMlp(OpList& list) { AddOps<SparseMlpKernel>(list); }

}  // namespace vmoe::ort
