// VmoeRouteDispatch: gates, x -> slot, weight, buf; VmoeRoute and VmoeDispatch in one.
#include "core/dispatch.h"
#include "onnxruntime/op.h"

namespace vmoe::ort {
namespace {

using ops::route_dispatch::Input;
using ops::route_dispatch::Output;

class RouteDispatchKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kRouteDispatch;

  explicit RouteDispatchKernel(const NodeInfo&) {}

  void Compute(const Call& call) const {
    const Tensor& gates = call.Input(Input::kGates);
    const Tensor& x = call.Input(Input::kX);
    RouteDispatch(call.routing(), gates.type, gates.data, x.data, call.sizes()['D'] * BytesOf(x.type),
                  call.Output<int32_t>(Output::kSlot), call.Output<void>(Output::kWeight),
                  call.Output<void>(Output::kBuf), call.Runner());
  }
};

}  // namespace

void AddRouteDispatch(OpList& list) { AddOps<RouteDispatchKernel>(list); }

}  // namespace vmoe::ort
