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

  void compute(const Call& call) const {
    const ops::Sizes& sizes = call.sizes();
    const auto* src = call.data<int32_t>(Input::kSrc);
    const size_t places = sizes['E'] * sizes['M'];
    const Tensor& x = call.input(Input::kX);
    check_sources(src, places, sizes['G'] * sizes['S']);
    dispatch(x.data, src, places, sizes['D'] * bytes_of(x.type), call.output<void>(Output::kBuf), call.runner());
  }
};

}  // namespace

void add_dispatch(OpList& list) { add_ops<DispatchKernel>(list); }

}  // namespace vmoe::ort
