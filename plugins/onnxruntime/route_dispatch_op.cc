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

  void compute(const Call& call) const {
    const Tensor& gates = call.input(Input::kGates);
    const Tensor& x = call.input(Input::kX);
    route_dispatch(call.routing(), gates.type, gates.data, x.data, call.sizes()['D'] * bytes_of(x.type),
                   call.output<int32_t>(Output::kSlot), call.output<void>(Output::kWeight),
                   call.output<void>(Output::kBuf), call.runner());
  }
};

}  // namespace

void add_route_dispatch(OpList& list) { add_ops<RouteDispatchKernel>(list); }

}  // namespace vmoe::ort
