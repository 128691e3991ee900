// VmoeGates: x, router -> gates = softmax(x . router).
#include "core/gates.h"
#include "onnxruntime/node_matrix.h"
#include "onnxruntime/op.h"

namespace vmoe::ort {
namespace {

using ops::gates::Input;
using ops::gates::Output;

class GatesKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kGates;

  explicit GatesKernel(const NodeInfo& node) : router_(node, Input::kRouter) {}

  void compute(const Call& call) const {
    const ops::Sizes& sizes = call.sizes();
    const auto router = router_.packed(call);
    const auto* x = call.data<float>(Input::kX);
    auto* gates = call.output<float>(Output::kGates);
    parallel_for_rows(call.runner(), sizes['G'] * sizes['S'], [&](size_t begin, size_t end) {
      compute_gates(*router, {}, x + begin * sizes['D'], end - begin, nullptr, gates + begin * sizes['E']);
    });
  }

 private:
  NodeMatrix router_;
};

}  // namespace

void add_gates(OpList& list) { add_ops<GatesKernel>(list); }

}  // namespace vmoe::ort
