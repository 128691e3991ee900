// VmoeDispatch: x, src -> buf.
#include <string>

#include "core/sparse_mlp.h"
#include "onnxruntime/op.h"

namespace vmoe::ort {
namespace {

constexpr ValueSpec kInputs[] = {{"x", kFloat, "GSD"}, {"src", kInt32, "EM"}};
constexpr ValueSpec kOutputs[] = {{"buf", kFloat, "EMD"}};

class DispatchKernel {
 public:
  static constexpr OpSpec kSpec{"VmoeDispatch", kInputs, 2, kOutputs, 1};

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
    Dispatch(x.as<float>(), src.as<int32_t>(), places, sizes['D'], call.Output<float>(0, sizes), call.Runner());
  }
};

}  // namespace

const OrtCustomOp* DispatchOp() {
  static const Op<DispatchKernel> op;
  return &op;
}

}  // namespace vmoe::ort
