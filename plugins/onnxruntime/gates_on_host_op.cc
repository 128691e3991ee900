// VmoeGates on the CPU in the library for GPUs: with the GPU's bits.
#include "cuda/gates_on_host.h"
#include "onnxruntime/cuda_ops.h"

namespace vmoe::ort {
namespace {

using ops::gates::Input;
using ops::gates::Output;

class HostGatesKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kGates;

  explicit HostGatesKernel(const NodeInfo&) {}

  void compute(const Call& call) const {
    cuda::compute_gates_on_host(gate_shape_of(call), call.data<float>(Input::kX), call.data<float>(Input::kRouter),
                                call.output<float>(Output::kGates), call.runner());
  }
};

}  // namespace

void add_gates_on_host(OpList& list) { add_ops<HostGatesKernel>(list); }

}  // namespace vmoe::ort
