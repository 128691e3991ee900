// VmoeChooseTokens: gates -> slot, src.
#include "core/choose_tokens.h"
#include "onnxruntime/op.h"

namespace vmoe::ort {
namespace {

using ops::choose_tokens::Input;
using ops::choose_tokens::Output;

class ChooseTokensKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kChooseTokens;

  explicit ChooseTokensKernel(const NodeInfo&) {}

  void compute(const Call& call) const {
    choose_tokens(call.routing(), call.data<float>(Input::kGates), call.output<int32_t>(Output::kSlot),
                  call.output<int32_t>(Output::kSrc), call.runner());
  }
};

}  // namespace

void add_choose_tokens(OpList& list) { add_ops<ChooseTokensKernel>(list); }

}  // namespace vmoe::ort
