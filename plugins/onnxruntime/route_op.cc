// VmoeRoute: gates -> slot, weight, src.
#include "onnxruntime/moe_specs.h"
#include "onnxruntime/op.h"
#include "onnxruntime/routing_settings.h"

namespace vmoe::ort {
namespace {

class RouteKernel {
 public:
  static constexpr const OpSpec& kSpec = kRouteSpec;

  explicit RouteKernel(const NodeInfo& node) : settings_(node) {}

  void Compute(const Call& call) const {
    Sizes sizes;
    const Tensor gates = call.Input(0, sizes);
    const RoutingShape shape = settings_.Read(call, 1, sizes);
    auto* slot = call.Output<int32_t>(0, sizes);
    auto* weight = call.Output<void>(1, sizes);
    auto* src = call.Output<int32_t>(2, sizes);
    Route(shape, gates.float_type(), gates.data, slot, weight, src, call.Runner());
  }

 private:
  RoutingSettings settings_;
};

}  // namespace

void AddRoute(OpList& list) { AddOps<RouteKernel>(list, kAnyGates); }

}  // namespace vmoe::ort
