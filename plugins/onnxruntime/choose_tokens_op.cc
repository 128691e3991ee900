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

  void Compute(const Call& call) const {
    ChooseTokens(call.routing(), call.Data<float>(Input::kGates), call.Output<int32_t>(Output::kSlot),
                 call.Output<int32_t>(Output::kSrc), call.Runner());
  }
};

}  // namespace

void AddChooseTokens(OpList& list) { AddOps<ChooseTokensKernel>(list); }

}  // namespace vmoe::ort
