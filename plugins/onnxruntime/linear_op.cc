// VmoeLinear: x, w, b -> y = x . w + b.
#include "core/linear.h"
#include "onnxruntime/node_matrix.h"
#include "onnxruntime/op.h"

namespace vmoe::ort {
namespace {

constexpr ValueSpec kInputs[] = {{"x", kFloat, "NTD"}, {"w", kFloat, "DP"}, {"b", kFloat, "P"}};
constexpr ValueSpec kOutputs[] = {{"y", kFloat, "NTP"}};

class LinearKernel {
 public:
  static constexpr OpSpec kSpec{"VmoeLinear", kInputs, 3, kOutputs, 1};

  explicit LinearKernel(const NodeInfo& node) : LinearKernel(node, Sizes()) {}

  void Compute(const Call& call) const {
    Sizes sizes;
    const Tensor x = call.Input(0, sizes);
    const Tensor w = call.Input(1, sizes);
    const Tensor b = call.Input(2, sizes);
    Linear(*w_.Packed(w), b.as<float>(), x.as<float>(), sizes['N'] * sizes['T'], call.Output<float>(0, sizes),
           call.Runner());
  }

 private:
  NodeMatrix w_;

  LinearKernel(const NodeInfo& node, Sizes sizes) : w_(CheckedConstant(node, kSpec, 1, sizes)) {}
};

}  // namespace

void AddLinear(OpList& list) { AddOps<LinearKernel>(list); }

}  // namespace vmoe::ort
