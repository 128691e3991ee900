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

  void compute(const Call& call) const {
    const ops::Sizes& sizes = call.sizes();
    const auto matrix = w_.packed(call);
    compute_linear({matrix.get(), call.data<float>(Input::kB), call.scales(Input::kW)}, call.data<float>(Input::kX),
                   sizes['N'] * sizes['T'], call.output<float>(Output::kY), call.runner());
  }

 private:
  NodeMatrix w_;
};

}  // namespace

void add_linear(OpList& list) { add_ops<LinearKernel>(list); }

}  // namespace vmoe::ort
