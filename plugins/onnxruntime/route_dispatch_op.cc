// VmoeRouteDispatch: gates, x -> slot, weight, buf; VmoeRoute and VmoeDispatch in one.
#include "core/dispatch.h"
#include "onnxruntime/moe_specs.h"
#include "onnxruntime/op.h"
#include "onnxruntime/routing_settings.h"

namespace vmoe::ort {
namespace {

class RouteDispatchKernel {
 public:
  static constexpr const OpSpec& kSpec = kRouteDispatchSpec;

  explicit RouteDispatchKernel(const NodeInfo& node) : settings_(node) {}

  void Compute(const Call& call) const {
    Sizes sizes;
    const Tensor gates = call.Input(0, sizes);
    const Tensor x = call.Input(1, sizes);
    const RoutingShape shape = settings_.Read(call, 2, sizes);
    auto* slot = call.Output<int32_t>(0, sizes);
    auto* weight = call.Output<void>(1, sizes);
    auto* buf = call.Output<void>(2, sizes);
    RouteDispatch(shape, gates.float_type(), gates.data, x.data, sizes['D'] * BytesOf(x.float_type()), slot, weight,
                  buf, call.Runner());
  }

 private:
  RoutingSettings settings_;
};

}  // namespace

void AddRouteDispatch(OpList& list) { AddOps<RouteDispatchKernel>(list, kAnyGatesAndTokens); }

}  // namespace vmoe::ort
