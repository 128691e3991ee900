// VmoeDispatch: x, src -> buf.
#include <string>

#include "core/dispatch.h"
#include "onnxruntime/op.h"

namespace vmoe::ort {
namespace {

using ops::dispatch::Input;
using ops::dispatch::Output;

class DispatchKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kDispatch;

  explicit DispatchKernel(const NodeInfo&) {}

  void Compute(const Call& call) const {
    const ops::Sizes& sizes = call.sizes();
    const auto* src = call.Data<int32_t>(Input::kSrc);
    const size_t places = sizes['E'] * sizes['M'];
    const auto tokens = static_cast<int64_t>(sizes['G'] * sizes['S']);
    for (size_t place = 0; place < places; ++place) {
      if (src[place] < -1 || src[place] >= tokens) {
        throw ops::OpError("src has the token " + std::to_string(src[place]) + ", but x has " + std::to_string(tokens) +
                           " tokens");
      }
    }
    const Tensor& x = call.Input(Input::kX);
    Dispatch(x.data, src, places, sizes['D'] * BytesOf(x.type), call.Output<void>(Output::kBuf), call.Runner());
  }
};

}  // namespace

void AddDispatch(OpList& list) { AddOps<DispatchKernel>(list); }

}  // namespace vmoe::ort
