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

  void compute(const Call& call) const {
    soft_combine(process_kernels(), soft_shape_of(call.sizes()), round_bf16_, call.data<float>(Input::kOut),
                 call.data<float>(Input::kCombine), call.output<float>(Output::kY), call.runner());
  }

 private:
  bool round_bf16_;
};

}  // namespace

void add_soft_combine(OpList& list) { add_ops<SoftCombineKernel>(list); }

}  // namespace vmoe::ort
