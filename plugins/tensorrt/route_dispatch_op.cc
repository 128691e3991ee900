// VmoeRouteDispatch: gates, x -> slot, weight, buf.
#include "tensorrt/op.h"

namespace vmoe::tensorrt {

constexpr OpSpec kRouteDispatchOp{
    "VmoeRouteDispatch",
    {{"gates", ValueType::kGates, "GSE"}, {"x", ValueType::kTokens, "GSD"}},
    2,
    {{"slot", ValueType::kInt32, "GSK"}, {"weight", ValueType::kGates, "GSK"}, {"buf", ValueType::kTokens, "EMD"}},
    3,
    cuda::RouteDispatchWorkspaceBytes,
    [](const Call& call) {
      return cuda::RouteDispatch(call.routing, call.type(0), call.inputs[0], call.inputs[1], call.row_bytes(1),
                                 static_cast<int32_t*>(call.outputs[0]), call.outputs[1], call.outputs[2],
                                 call.workspace, call.stream);
    },
};

}  // namespace vmoe::tensorrt
