// VmoeRoute: gates -> slot, weight, src.
#include "tensorrt/op.h"

namespace vmoe::tensorrt {

constexpr OpSpec kRouteOp{
    "VmoeRoute",
    {{"gates", ValueType::kGates, "GSE"}},
    1,
    {{"slot", ValueType::kInt32, "GSK"}, {"weight", ValueType::kGates, "GSK"}, {"src", ValueType::kInt32, "EM"}},
    3,
    cuda::RouteWorkspaceBytes,
    [](const Call& call) {
      return cuda::Route(call.routing, call.type(0), call.inputs[0], static_cast<int32_t*>(call.outputs[0]),
                         call.outputs[1], static_cast<int32_t*>(call.outputs[2]), call.workspace, call.stream);
    },
};

}  // namespace vmoe::tensorrt
