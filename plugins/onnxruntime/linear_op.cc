// VmoeLinear: x, w, b -> y = x . w + b.
#include "core/linear.h"
#include "onnxruntime/node_matrix.h"
#include "onnxruntime/op.h"

namespace vmoe::ort {
namespace {

using ops::linear::Input;
using ops::linear::Output;

class LinearKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kLinear;
  static constexpr bool Takes(const ops::TypeChoice& types) { return types.w == ElementType::kFloat32; }

  explicit LinearKernel(const NodeInfo& node) : w_(node, Input::kW) {}

  void Compute(const Call& call) const {
    const ops::Sizes& sizes = call.sizes();
    Linear(*w_.Packed(call), call.Data<float>(Input::kB), call.Data<float>(Input::kX), sizes['N'] * sizes['T'],
           call.Output<float>(Output::kY), call.Runner());
  }

 private:
  NodeMatrix w_;
};

}  // namespace

void AddLinear(OpList& list) { AddOps<LinearKernel>(list); }

}  // namespace vmoe::ort
