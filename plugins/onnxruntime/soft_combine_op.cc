// VmoeSoftCombine: out, combine -> y.
#include "core/soft_moe.h"
#include "onnxruntime/op.h"
#include "onnxruntime/process_kernels.h"
#include "onnxruntime/soft_sizes.h"

namespace vmoe::ort {
namespace {

using ops::soft_combine::Attribute;
using ops::soft_combine::Input;
using ops::soft_combine::Output;

class SoftCombineKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kSoftCombine;

  explicit SoftCombineKernel(const NodeInfo& node) : round_bf16_(node.attribute(Attribute::kDispatchBf16) != 0) {}

  void Compute(const Call& call) const {
    SoftCombine(ProcessKernels(), SoftShapeOf(call.sizes()), round_bf16_, call.Data<float>(Input::kOut),
                call.Data<float>(Input::kCombine), call.Output<float>(Output::kY), call.Runner());
  }

 private:
  bool round_bf16_;
};

}  // namespace

void AddSoftCombine(OpList& list) { AddOps<SoftCombineKernel>(list); }

}  // namespace vmoe::ort
