// VmoeDispatch: x, src -> buf.
#include <string>

#include "core/dispatch.h"
#include "onnxruntime/moe_specs.h"
#include "onnxruntime/op.h"

namespace vmoe::ort {
namespace {

class DispatchKernel {
 public:
  static constexpr const OpSpec& kSpec = kDispatchSpec;

  explicit DispatchKernel(const NodeInfo&) {}

  void Compute(const Call& call) const {
    Sizes sizes;
    const Tensor x = call.Input(0, sizes);
    const Tensor src = call.Input(1, sizes);
    const size_t places = sizes['E'] * sizes['M'];
    const auto tokens = static_cast<int64_t>(sizes['G'] * sizes['S']);
    for (size_t place = 0; place < places; ++place) {
      const int32_t token = src.as<int32_t>()[place];
      if (token < -1 || token >= tokens) {
        throw OpError("src has the token " + std::to_string(token) + ", but x has " + std::to_string(tokens) +
                      " tokens");
      }
    }
    Dispatch(x.data, src.as<int32_t>(), places, sizes['D'] * BytesOf(x.float_type()), call.Output<void>(0, sizes),
             call.Runner());
  }
};

}  // namespace

void AddDispatch(OpList& list) { AddOps<DispatchKernel>(list, kAnyTokens); }

}  // namespace vmoe::ort
