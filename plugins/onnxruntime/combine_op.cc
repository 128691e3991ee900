// VmoeCombine: out, slot, weight -> y.
#include <string>

#include "core/combine.h"
#include "onnxruntime/moe_specs.h"
#include "onnxruntime/op.h"

namespace vmoe::ort {
namespace {

class CombineKernel {
 public:
  static constexpr const OpSpec& kSpec = kCombineSpec;

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
    Combine(out.float_type(), out.data, slot.as<int32_t>(), weight.float_type(), weight.data, tokens, sizes['K'],
            sizes['D'], call.Output<void>(0, sizes), call.Runner());
  }
};

}  // namespace

void AddCombine(OpList& list) { AddOps<CombineKernel>(list, kWeightsFloatOrAsTokens); }

}  // namespace vmoe::ort
