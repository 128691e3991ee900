// VmoeCombine: out, slot, weight -> y.
#include "tensorrt/op.h"

namespace vmoe::tensorrt {

constexpr OpSpec kCombineOp{
    "VmoeCombine",
    {{"out", ValueType::kTokens, "EMD"}, {"slot", ValueType::kInt32, "GSK"}, {"weight", ValueType::kWeight, "GSK"}},
    3,
    {{"y", ValueType::kTokens, "GSD"}},
    1,
    nullptr,
    [](const Call& call) {
      const Sizes& sizes = call.sizes;
      return cuda::Combine(call.type(0), call.inputs[0], sizes['E'] * sizes['M'],
                           static_cast<const int32_t*>(call.inputs[1]), call.type(2), call.inputs[2],
                           sizes['G'] * sizes['S'], sizes['K'], sizes['D'], call.outputs[0], call.stream);
    },
};

}  // namespace vmoe::tensorrt
