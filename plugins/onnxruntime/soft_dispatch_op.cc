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

  void compute(const Call& call) const {
    soft_dispatch(process_kernels(), soft_shape_of(call.sizes()), round_bf16_, call.data<float>(Input::kX),
                  call.data<float>(Input::kDispatch), call.output<float>(Output::kBuf), call.runner());
  }

 private:
  bool round_bf16_;
};

}  // namespace

void add_soft_dispatch(OpList& list) { add_ops<SoftDispatchKernel>(list); }

}  // namespace vmoe::ort
