// The ops of the op library for NVIDIA GPUs.
#include <cuda_runtime_api.h>

#include "onnxruntime/cuda_ops.h"

namespace vmoe::ort {

// Returns each GPU op twice, for the GPU and for the CPU. An op that a library registers hides the model's own function
// of the same name. So without a CPU kernel, no kernel would exist for the op if ONNX Runtime runs without the CUDA
// provider, or does not assign the node to that provider. The model's other ops are left out: ONNX Runtime then inlines
// their functions, whose standard ops run on the GPU.
OpList library_ops() {
  OpList list;
  add_cuda_ops(list, kCudaProvider);
  add_gates_on_host(list);
  add_routing_ops(list);
  return list;
}

}  // namespace vmoe::ort

// These functions return what the kernels require, so that callers can check a machine before they run a kernel. The
// first returns the GPU architectures that the kernels were compiled for, in CMake's form ("80-real 120-virtual"). The
// second returns the CUDA version that they were built with, such as 13000.
extern "C" __attribute__((visibility("default"))) const char* vmoe_cuda_architectures() {
  return VMOE_CUDA_ARCHITECTURES;
}
extern "C" __attribute__((visibility("default"))) int vmoe_cuda_version() { return CUDART_VERSION; }
