// The ops that run on an NVIDIA GPU, for ONNX Runtime's CUDA execution provider.
#pragma once

#include "onnxruntime/op.h"

namespace vmoe::ort {

inline constexpr const char* kCudaProvider = "CUDAExecutionProvider";

// Adds VmoeGates, VmoeRoute, VmoeDispatch, VmoeRouteDispatch and VmoeCombine for the execution provider `provider`.
void add_cuda_ops(OpList& list, const char* provider);

// Adds the CPU kernel of VmoeGates. Its results have the same bits as those of the GPU kernel.
void add_gates_on_host(OpList& list);

}  // namespace vmoe::ort
