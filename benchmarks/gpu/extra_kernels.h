// Kernels that serve no model.
#pragma once

#include <cuda_runtime_api.h>

namespace vmoe_gpu {

// A kernel that does nothing: what a launch costs.
cudaError_t launch_empty(cudaStream_t stream);

// Runs a kernel that is wrong on purpose, which a tool of compute-sanitizer must report: memcheck, racecheck, synccheck
// or initcheck. Returns false for any other name. What CUDA says to it is of no interest.
bool plant_fault(const char* tool);

}  // namespace vmoe_gpu
