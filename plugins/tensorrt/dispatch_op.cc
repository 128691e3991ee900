// VmoeDispatch: x, src -> buf.
#include "tensorrt/op.h"

namespace vmoe::tensorrt {

constexpr OpSpec kDispatchOp{
    "VmoeDispatch",
    {{"x", ValueType::kTokens, "GSD"}, {"src", ValueType::kInt32, "EM"}},
    2,
    {{"buf", ValueType::kTokens, "EMD"}},
    1,
    nullptr,
    [](const Call& call) {
      return cuda::Dispatch(call.inputs[0], call.sizes['G'] * call.sizes['S'],
                            static_cast<const int32_t*>(call.inputs[1]), call.sizes['E'] * call.sizes['M'],
                            call.row_bytes(0), call.outputs[0], call.stream);
    },
};

}  // namespace vmoe::tensorrt
