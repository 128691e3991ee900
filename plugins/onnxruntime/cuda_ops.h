// The ops that run on an NVIDIA GPU, for ONNX Runtime's CUDA execution provider.
#pragma once

#include "onnxruntime/op.h"

namespace vmoe::ort {

inline constexpr const char* kCudaProvider = "CUDAExecutionProvider";

// Adds VmoeRoute, VmoeDispatch, VmoeRouteDispatch and VmoeCombine, run by `provider`.
void add_cuda_ops(OpList& list, const char* provider);

}  // namespace vmoe::ort
