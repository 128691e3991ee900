// VmoeCombine: out, slot, weight -> y.
#include <string>

#include "core/sparse_mlp.h"
#include "onnxruntime/op.h"

namespace vmoe::ort {
namespace {

constexpr ValueSpec kInputs[] = {{"out", kFloat, "EMD"}, {"slot", kInt32, "GSK"}, {"weight", kFloat, "GSK"}};
constexpr ValueSpec kOutputs[] = {{"y", kFloat, "GSD"}};

class CombineKernel {
 public:
  static constexpr OpSpec kSpec{"VmoeCombine", kInputs, 3, kOutputs, 1};

  explicit CombineKernel(const NodeInfo&) {}

  void Compute(const Call& call) const {
    Sizes sizes;
    const Tensor out = call.Input(0, sizes);
    const Tensor slot = call.Input(1, sizes);
    const Tensor weight = call.Input(2, sizes);
    const size_t tokens = sizes['G'] * sizes['S'];
    const auto places = static_cast<int64_t>(sizes['E'] * sizes['M']);
    for (size_t pair = 0; pair < tokens * sizes['K']; ++pair) {
      const int32_t place = slot.as<int32_t>()[pair];
      if (place < -1 || place >= places) {
        throw OpError("slot has the place " + std::to_string(place) + ", but out has " + std::to_string(places) +
                      " places");
      }
    }
    Combine(out.as<float>(), slot.as<int32_t>(), weight.as<float>(), tokens, sizes['K'], sizes['D'],
            call.Output<float>(0, sizes), call.Runner());
  }
};

}  // namespace

const OrtCustomOp* CombineOp() {
  static const Op<CombineKernel> op;
  return &op;
}

}  // namespace vmoe::ort
