// The ops of the op library for NVIDIA GPUs.
#include <cuda_runtime_api.h>

#include "onnxruntime/cuda_ops.h"

namespace vmoe::ort {

// Each op for the GPU and for the CPU: what a library registers hides the model's own function of that name, and a
// session without the CUDA provider, or a node that the provider leaves, would find no kernel. The other ops of the
// model aren't here for the same reason turned round: without a kernel, ONNX Runtime inlines their functions, and the
// standard ops in there run on the GPU.
OpList library_ops() {
  OpList list;
  add_cuda_ops(list, kCudaProvider);
  add_gates_on_host(list);
  add_routing_ops(list);
  return list;
}

}  // namespace vmoe::ort

// What the kernels need of a machine, so that it can be told before they run. The architectures that they were compiled
// for, in CMake's form ("80-real 120-virtual"), and the CUDA that they were built with, such as 13000.
extern "C" __attribute__((visibility("default"))) const char* vmoe_cuda_architectures() {
  return VMOE_CUDA_ARCHITECTURES;
}
extern "C" __attribute__((visibility("default"))) int vmoe_cuda_version() { return CUDART_VERSION; }
