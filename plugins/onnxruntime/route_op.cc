// VmoeRoute: gates -> slot, weight, src.
#include "onnxruntime/op.h"
#include "onnxruntime/routing_settings.h"

namespace vmoe::ort {
namespace {

constexpr ValueSpec kInputs[] = {
    {"gates", kFloat, "GSE"}, {"capacity", kInt64, "1", true}, {"k", kInt64, "1", true}, {"bpr", kInt64, "1", true}};
constexpr ValueSpec kOutputs[] = {{"slot", kInt32, "GSK"}, {"weight", kFloat, "GSK"}, {"src", kInt32, "EM"}};

class RouteKernel {
 public:
  static constexpr OpSpec kSpec{"VmoeRoute", kInputs, 4, kOutputs, 3};

  explicit RouteKernel(const NodeInfo& node) : settings_(node) {}

  void Compute(const Call& call) const {
    Sizes sizes;
    const Tensor gates = call.Input(0, sizes);
    const RoutingShape shape = settings_.Read(call, 1, sizes);
    auto* slot = call.Output<int32_t>(0, sizes);
    auto* weight = call.Output<float>(1, sizes);
    auto* src = call.Output<int32_t>(2, sizes);
    Route(shape, gates.as<float>(), slot, weight, src, call.Runner());
  }

 private:
  RoutingSettings settings_;
};

}  // namespace

const OrtCustomOp* RouteOp() {
  static const Op<RouteKernel> op;
  return &op;
}

}  // namespace vmoe::ort
