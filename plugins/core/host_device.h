// Functions that run on the CPU and, where a CUDA compiler reads them, on a GPU as well.
#pragma once

#if defined(__CUDACC__)
#define VMOE_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define VMOE_HOST_DEVICE inline
#endif
