// The ops that run on an NVIDIA GPU, for ONNX Runtime's CUDA execution provider.
#pragma once

#include "cuda/gate_phases.h"
#include "onnxruntime/op.h"

namespace vmoe::ort {

inline constexpr const char* kCudaProvider = "CUDAExecutionProvider";

// Adds VmoeGates, VmoeRoute, VmoeDispatch, VmoeRouteDispatch and VmoeCombine, run by `provider`.
void add_cuda_ops(OpList& list, const char* provider);

// Adds VmoeGates for the CPU, with the bits of the GPU's.
void add_gates_on_host(OpList& list);

// The sizes of a call of VmoeGates. Throws OpError for those that a GPU can't do.
cuda::GateShape gate_shape_of(const Call& call);

}  // namespace vmoe::ort
