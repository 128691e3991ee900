// Functions that run on the CPU and, where a CUDA compiler reads them, on a GPU as well.
#pragma once

#if defined(__CUDACC__)
#define VMOE_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define VMOE_HOST_DEVICE inline
#endif

// Before a loop whose count the compiler knows: a GPU keeps its arrays in registers then.
#if defined(__CUDA_ARCH__)
#define VMOE_UNROLL _Pragma("unroll")
#else
#define VMOE_UNROLL
#endif
