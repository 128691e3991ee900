// VmoeDispatch: x, src -> buf.
#include "tensorrt/op.h"

namespace vmoe::tensorrt {

using ops::dispatch::Input;
using ops::dispatch::Output;

constexpr Op kDispatchOp{
    ops::kDispatch,
    nullptr,
    [](const Call& call) {
      const ops::Sizes& sizes = call.sizes;
      return cuda::dispatch(call.data<void>(Input::kX), sizes['G'] * sizes['S'], call.data<int32_t>(Input::kSrc),
                            sizes['E'] * sizes['M'], call.row_bytes(Input::kX), call.output<void>(Output::kBuf),
                            call.stream);
    },
};

}  // namespace vmoe::tensorrt
