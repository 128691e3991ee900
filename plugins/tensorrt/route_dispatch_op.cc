// VmoeRouteDispatch: gates, x -> slot, weight, buf.
#include "tensorrt/op.h"

namespace vmoe::tensorrt {

using ops::route_dispatch::Input;
using ops::route_dispatch::Output;

constexpr Op kRouteDispatchOp{
    ops::kRouteDispatch,
    cuda::RouteDispatchWorkspaceBytes,
    [](const Call& call) {
      return cuda::RouteDispatch(call.routing, call.type(Input::kGates), call.Data<void>(Input::kGates),
                                 call.Data<void>(Input::kX), call.row_bytes(Input::kX),
                                 call.Output<int32_t>(Output::kSlot), call.Output<void>(Output::kWeight),
                                 call.Output<void>(Output::kBuf), call.workspace, call.stream);
    },
};

}  // namespace vmoe::tensorrt
