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
      return cuda::Combine(call.type(Input::kOut), call.Data<void>(Input::kOut), sizes['E'] * sizes['M'],
                           call.Data<int32_t>(Input::kSlot), call.type(Input::kWeight), call.Data<void>(Input::kWeight),
                           sizes['G'] * sizes['S'], sizes['K'], sizes['D'], call.Output<void>(Output::kY), call.stream);
    },
};

}  // namespace vmoe::tensorrt
