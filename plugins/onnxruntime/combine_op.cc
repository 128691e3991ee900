// VmoeCombine: out, slot, weight -> y.
#include <string>

#include "core/combine.h"
#include "onnxruntime/op.h"

namespace vmoe::ort {
namespace {

using ops::combine::Input;
using ops::combine::Output;

class CombineKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kCombine;

  explicit CombineKernel(const NodeInfo&) {}

  void Compute(const Call& call) const {
    const ops::Sizes& sizes = call.sizes();
    const auto* slot = call.Data<int32_t>(Input::kSlot);
    const size_t tokens = sizes['G'] * sizes['S'];
    const auto places = static_cast<int64_t>(sizes['E'] * sizes['M']);
    for (size_t pair = 0; pair < tokens * sizes['K']; ++pair) {
      if (slot[pair] < -1 || slot[pair] >= places) {
        throw ops::OpError("slot has the place " + std::to_string(slot[pair]) + ", but out has " +
                           std::to_string(places) + " places");
      }
    }
    const Tensor& out = call.Input(Input::kOut);
    const Tensor& weight = call.Input(Input::kWeight);
    Combine(out.type, out.data, slot, weight.type, weight.data, tokens, sizes['K'], sizes['D'],
            call.Output<void>(Output::kY), call.Runner());
  }
};

}  // namespace

void AddCombine(OpList& list) { AddOps<CombineKernel>(list); }

}  // namespace vmoe::ort
