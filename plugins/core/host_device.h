// Macros for functions that run on the CPU and, if a CUDA compiler compiles them, also on a GPU.
#pragma once

#if defined(__CUDACC__)
#define VMOE_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define VMOE_HOST_DEVICE inline
#endif

// Unrolls the loop that follows this macro. The loop must have a constant number of iterations. Unrolling lets a GPU
// keep the loop's arrays in registers.
#if defined(__CUDA_ARCH__)
#define VMOE_UNROLL _Pragma("unroll")
#else
#define VMOE_UNROLL
#endif
