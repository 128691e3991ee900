// VmoeRoute: gates -> slot, weight, src.
#include "tensorrt/op.h"

namespace vmoe::tensorrt {

using ops::route::Input;
using ops::route::Output;

constexpr Op kRouteOp{
    ops::kRoute,
    cuda::route_workspace_bytes,
    [](const Call& call) {
      return cuda::route(call.routing, call.type(Input::kGates), call.data<void>(Input::kGates),
                         call.output<int32_t>(Output::kSlot), call.output<void>(Output::kWeight),
                         call.output<int32_t>(Output::kSrc), nullptr, call.workspace, call.stream);
    },
};

}  // namespace vmoe::tensorrt
