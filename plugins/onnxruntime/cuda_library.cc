// The ops of the op library for NVIDIA GPUs.
#include "onnxruntime/cuda_ops.h"

namespace vmoe::ort {

// Each op for the GPU and for the CPU: what a library registers hides the model's own function of that name, and a
// session without the CUDA provider, or a node that the provider leaves, would find no kernel. The other ops of the
// model aren't here for the same reason turned round: without a kernel, ONNX Runtime inlines their functions, and the
// standard ops in there run on the GPU.
OpList LibraryOps() {
  OpList list;
  AddCudaOps(list, kCudaProvider);
  AddRoute(list);
  AddDispatch(list);
  AddRouteDispatch(list);
  AddCombine(list);
  return list;
}

}  // namespace vmoe::ort
