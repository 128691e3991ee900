// VmoeDispatch: x, src -> buf.
#include "core/dispatch.h"
#include "onnxruntime/op.h"
#include "onnxruntime/places.h"

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
    const Tensor& x = call.Input(Input::kX);
    CheckSources(src, places, sizes['G'] * sizes['S']);
    Dispatch(x.data, src, places, sizes['D'] * BytesOf(x.type), call.Output<void>(Output::kBuf), call.Runner());
  }
};

}  // namespace

void AddDispatch(OpList& list) { AddOps<DispatchKernel>(list); }

}  // namespace vmoe::ort
