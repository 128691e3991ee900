// VmoeGates: x, router -> gates.
#include "tensorrt/op.h"

namespace vmoe::tensorrt {

using ops::gates::Input;
using ops::gates::Output;

constexpr Op kGatesOp{
    ops::kGates,
    nullptr,
    [](const Call& call) {
      const ops::Sizes& sizes = call.sizes;
      return cuda::compute_gates(call.data<float>(Input::kX), call.data<float>(Input::kRouter), sizes['G'] * sizes['S'],
                                 sizes['D'], sizes['E'], call.output<float>(Output::kGates), call.stream);
    },
};

}  // namespace vmoe::tensorrt
