// VmoeRouteDispatch: gates, x -> slot, weight, buf.
#include "tensorrt/op.h"

namespace vmoe::tensorrt {

using ops::route_dispatch::Input;
using ops::route_dispatch::Output;

constexpr Op kRouteDispatchOp{
    ops::kRouteDispatch,
    cuda::route_dispatch_workspace_bytes,
    [](const Call& call) {
      return cuda::route_dispatch(call.routing, call.type(Input::kGates), call.data<void>(Input::kGates),
                                  call.data<void>(Input::kX), call.row_bytes(Input::kX),
                                  call.output<int32_t>(Output::kSlot), call.output<void>(Output::kWeight),
                                  call.output<void>(Output::kBuf), call.workspace, call.stream);
    },
};

}  // namespace vmoe::tensorrt
