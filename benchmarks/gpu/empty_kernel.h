// A kernel that does nothing: what a launch costs.
#pragma once

#include <cuda_runtime_api.h>

namespace vmoe_gpu {

cudaError_t LaunchEmpty(cudaStream_t stream);

}  // namespace vmoe_gpu
