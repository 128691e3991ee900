// The ops that run on an NVIDIA GPU, for ONNX Runtime's CUDA execution provider.
#pragma once

#include "onnxruntime/op.h"

namespace vmoe::ort {

inline constexpr const char* kCudaProvider = "CUDAExecutionProvider";

// Adds VmoeGates, VmoeRoute, VmoeDispatch, VmoeRouteDispatch and VmoeCombine for the execution provider `provider`.
void add_cuda_ops(OpList& list, const char* provider);

// Adds VmoeGates for the CPU. Its results have the same bits as on the GPU.
void add_gates_on_host(OpList& list);

}  // namespace vmoe::ort
