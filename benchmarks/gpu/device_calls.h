// The GPU kernels for callers without C++: every function returns 0 or CUDA's error code. Types are 0 float32, 1
// float16, 2 bfloat16; pointers are device memory; a stream is CUDA's handle.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__cplusplus)
extern "C" {
#endif

struct VmoeShape {
  size_t groups;
  size_t tokens;
  size_t experts;
  size_t choices;
  size_t capacity;
  int32_t batch_priority;
};

const char* vmoe_gpu_error_text(int error);

// Why a routing can't be, as the end of a sentence; null if it can.
const char* vmoe_gpu_routing_refusal(const struct VmoeShape* shape);

size_t vmoe_gpu_route_workspace_bytes(const struct VmoeShape* shape);
size_t vmoe_gpu_route_dispatch_workspace_bytes(const struct VmoeShape* shape);

int vmoe_gpu_route(const struct VmoeShape* shape, int32_t type, const void* gates, int32_t* slot, void* weight,
                   int32_t* src, void* workspace, void* stream);
int vmoe_gpu_dispatch(const void* x, size_t tokens, const int32_t* src, size_t places, size_t row_bytes, void* buf,
                      void* stream);
int vmoe_gpu_route_dispatch(const struct VmoeShape* shape, int32_t gate_type, const void* gates, const void* x,
                            size_t row_bytes, int32_t* slot, void* weight, void* buf, void* workspace, void* stream);
int vmoe_gpu_combine(int32_t type, const void* out, size_t places, const int32_t* slot, int32_t weight_type,
                     const void* weight, size_t tokens, size_t choices, size_t hidden, void* y, void* stream);

// A kernel that does nothing: what a launch costs.
int vmoe_gpu_empty(void* stream);

// What is put on the stream in between is not run but counted: the nodes of its CUDA graph. Anything that allocates or
// synchronises in between is an error. Not for the default stream.
int vmoe_gpu_begin_count(void* stream);
int vmoe_gpu_end_count(void* stream, size_t* nodes);

#if defined(__cplusplus)
}
#endif
