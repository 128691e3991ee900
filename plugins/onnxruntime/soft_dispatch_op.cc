// VmoeSoftDispatch: x, dispatch -> buf.
#include "core/soft_moe.h"
#include "onnxruntime/op.h"
#include "onnxruntime/process_kernels.h"
#include "onnxruntime/soft_sizes.h"

namespace vmoe::ort {
namespace {

using ops::soft_dispatch::Attribute;
using ops::soft_dispatch::Input;
using ops::soft_dispatch::Output;

class SoftDispatchKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kSoftDispatch;

  explicit SoftDispatchKernel(const NodeInfo& node) : round_bf16_(node.attribute(Attribute::kDispatchBf16) != 0) {}

  void Compute(const Call& call) const {
    SoftDispatch(ProcessKernels(), SoftShapeOf(call.sizes()), round_bf16_, call.Data<float>(Input::kX),
                 call.Data<float>(Input::kDispatch), call.Output<float>(Output::kBuf), call.Runner());
  }

 private:
  bool round_bf16_;
};

}  // namespace

void AddSoftDispatch(OpList& list) { AddOps<SoftDispatchKernel>(list); }

}  // namespace vmoe::ort
