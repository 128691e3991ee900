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

  void compute(const Call& call) const {
    const ops::Sizes& sizes = call.sizes();
    const auto* slot = call.data<int32_t>(Input::kSlot);
    const size_t tokens = sizes['G'] * sizes['S'];
    check_slots(slot, tokens * sizes['K'], sizes['E'] * sizes['M']);
    const Tensor& out = call.input(Input::kOut);
    const Tensor& weight = call.input(Input::kWeight);
    combine(out.type, out.data, slot, weight.type, weight.data, tokens, sizes['K'], sizes['D'],
            call.output<void>(Output::kY), call.runner());
  }
};

}  // namespace

void add_combine(OpList& list) { add_ops<CombineKernel>(list); }

}  // namespace vmoe::ort
