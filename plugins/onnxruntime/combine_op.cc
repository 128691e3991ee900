// VmoeCombine: out, slot, weight -> y.
#include "core/combine.h"
#include "onnxruntime/op.h"
#include "onnxruntime/places.h"

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
    CheckSlots(slot, tokens * sizes['K'], sizes['E'] * sizes['M']);
    const Tensor& out = call.Input(Input::kOut);
    const Tensor& weight = call.Input(Input::kWeight);
    Combine(out.type, out.data, slot, weight.type, weight.data, tokens, sizes['K'], sizes['D'],
            call.Output<void>(Output::kY), call.Runner());
  }
};

}  // namespace

void AddCombine(OpList& list) { AddOps<CombineKernel>(list); }

}  // namespace vmoe::ort
