// VmoeRoute: gates -> slot, weight, src.
#include "tensorrt/op.h"

namespace vmoe::tensorrt {

using ops::route::Input;
using ops::route::Output;

constexpr Op kRouteOp{
    ops::kRoute,
    cuda::RouteWorkspaceBytes,
    [](const Call& call) {
      return cuda::Route(call.routing, call.type(Input::kGates), call.Data<void>(Input::kGates),
                         call.Output<int32_t>(Output::kSlot), call.Output<void>(Output::kWeight),
                         call.Output<int32_t>(Output::kSrc), nullptr, call.workspace, call.stream);
    },
};

}  // namespace vmoe::tensorrt
