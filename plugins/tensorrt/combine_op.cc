// VmoeCombine: out, slot, weight -> y.
#include "tensorrt/op.h"

namespace vmoe::tensorrt {

using ops::combine::Input;
using ops::combine::Output;

constexpr Op kCombineOp{
    ops::kCombine,
    nullptr,
    [](const Call& call) {
      const ops::Sizes& sizes = call.sizes;
      return cuda::combine(call.type(Input::kOut), call.data<void>(Input::kOut), sizes['E'] * sizes['M'],
                           call.data<int32_t>(Input::kSlot), call.type(Input::kWeight), call.data<void>(Input::kWeight),
                           sizes['G'] * sizes['S'], sizes['K'], sizes['D'], call.output<void>(Output::kY), call.stream);
    },
};

}  // namespace vmoe::tensorrt
