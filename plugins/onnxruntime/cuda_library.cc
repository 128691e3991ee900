// The op library for NVIDIA GPUs.
#include <cuda_runtime_api.h>

#include "onnxruntime/cuda_ops.h"

namespace vmoe::ort {

// Returns each GPU op twice, once for the GPU and once for the CPU. A registered op hides the model's own function of
// the same name. It therefore needs a CPU kernel too, in case ONNX Runtime runs without the CUDA provider or does not
// assign the node to that provider. The model's other ops are not registered, so ONNX Runtime inlines their functions.
// The standard ops in these functions run on the GPU.
OpList library_ops() {
  OpList list;
  add_cuda_ops(list, kCudaProvider);
  add_gates_on_host(list);
  add_routing_ops(list);
  return list;
}

}  // namespace vmoe::ort

// The following functions return what the kernels require, so that callers can check a machine before they run a
// kernel. vmoe_cuda_architectures returns the GPU architectures that the kernels were compiled for, in CMake's form
// ("80-real 120-virtual"). vmoe_cuda_version returns the CUDA version that the kernels were built with, such as 13000.
extern "C" __attribute__((visibility("default"))) const char* vmoe_cuda_architectures() {
  return VMOE_CUDA_ARCHITECTURES;
}
extern "C" __attribute__((visibility("default"))) int vmoe_cuda_version() { return CUDART_VERSION; }
