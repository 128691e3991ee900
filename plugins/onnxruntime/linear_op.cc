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

  explicit LinearKernel(const NodeInfo& node) : w_(node, Input::kW) {}

  void Compute(const Call& call) const {
    const ops::Sizes& sizes = call.sizes();
    const auto matrix = w_.Packed(call);
    Linear({matrix.get(), call.Data<float>(Input::kB), call.Scales(Input::kW)}, call.Data<float>(Input::kX),
           sizes['N'] * sizes['T'], call.Output<float>(Output::kY), call.Runner());
  }

 private:
  NodeMatrix w_;
};

}  // namespace

void AddLinear(OpList& list) { AddOps<LinearKernel>(list); }

}  // namespace vmoe::ort
