// A C interface to the GPU kernels. The first function returns CUDA's text for an error code, and the next two return
// numbers of bytes. All other functions return 0 or CUDA's error code.
//
// A shape is an array of groups, tokens, experts, choices, slots per expert and group, and 1 for Batch Priority
// Routing. A type is 0 for float32, 1 for float16 and 2 for bfloat16. Pointers are addresses in device memory. A stream
// is a CUDA stream handle.
#include <cuda_runtime_api.h>

#include "cuda/gates_on_host.h"
#include "cuda/ops.h"

namespace {

cudaStream_t as_stream(void* stream) { return static_cast<cudaStream_t>(stream); }

vmoe::ElementType as_type(size_t type) { return static_cast<vmoe::ElementType>(type); }

vmoe::RoutingShape as_shape(const size_t* s) { return {s[0], s[1], s[2], s[3], s[4], s[5] != 0}; }

}  // namespace

extern "C" {

const char* vmoe_gpu_error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

size_t vmoe_gpu_route_workspace_bytes(const size_t* shape) {
  return vmoe::cuda::route_workspace_bytes(as_shape(shape));
}

size_t vmoe_gpu_route_dispatch_workspace_bytes(const size_t* shape) {
  return vmoe::cuda::route_dispatch_workspace_bytes(as_shape(shape));
}

int vmoe_gpu_gates(const float* x, const float* router, size_t tokens, size_t hidden, size_t experts, float* gates,
                   void* stream) {
  return vmoe::cuda::compute_gates(x, router, tokens, hidden, experts, gates, as_stream(stream));
}

// Like vmoe_gpu_gates, but runs on the CPU and on host memory.
int vmoe_gpu_gates_on_host(const float* x, const float* router, size_t tokens, size_t hidden, size_t experts,
                           float* gates) {
  const vmoe::cuda::GateShape shape{static_cast<uint32_t>(tokens), static_cast<uint32_t>(hidden),
                                    static_cast<uint32_t>(experts)};
  vmoe::cuda::compute_gates_on_host(shape, x, router, gates, vmoe::serial_runner());
  return cudaSuccess;
}

int vmoe_gpu_route(const size_t* shape, const float* gates, int32_t* slot, float* weight, int32_t* src, int32_t* expert,
                   void* workspace, void* stream) {
  return vmoe::cuda::route(as_shape(shape), gates, slot, weight, src, expert, workspace, as_stream(stream));
}

int vmoe_gpu_dispatch(const void* x, size_t tokens, const int32_t* src, size_t slots, size_t row_bytes, void* buf,
                      void* stream) {
  return vmoe::cuda::dispatch(x, tokens, src, slots, row_bytes, buf, as_stream(stream));
}

int vmoe_gpu_route_dispatch(const size_t* shape, const float* gates, const void* x, size_t row_bytes, int32_t* slot,
                            float* weight, void* buf, void* workspace, void* stream) {
  return vmoe::cuda::route_dispatch(as_shape(shape), gates, x, row_bytes, slot, weight, buf, workspace,
                                    as_stream(stream));
}

int vmoe_gpu_combine(size_t type, const void* out, size_t slots, const int32_t* slot, const float* weight,
                     size_t tokens, size_t choices, size_t hidden, void* y, void* stream) {
  return vmoe::cuda::combine(as_type(type), out, slots, slot, weight, tokens, choices, hidden, y, as_stream(stream));
}

int vmoe_gpu_allocate(void** memory, size_t bytes) { return cudaMalloc(memory, bytes == 0 ? 1 : bytes); }

int vmoe_gpu_release(void* memory) { return cudaFree(memory); }

int vmoe_gpu_copy(void* to, const void* from, size_t bytes) { return cudaMemcpy(to, from, bytes, cudaMemcpyDefault); }

int vmoe_gpu_synchronize() { return cudaDeviceSynchronize(); }

// Starts to count. Between vmoe_gpu_begin_count and vmoe_gpu_end_count, work on the stream does not run. It becomes
// nodes of a CUDA graph, and these are counted. Allocating or synchronizing during that time is an error. The stream
// must not be the default stream.
int vmoe_gpu_begin_count(void* stream) {
  return cudaStreamBeginCapture(as_stream(stream), cudaStreamCaptureModeThreadLocal);
}

int vmoe_gpu_end_count(void* stream, size_t* nodes) {
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(as_stream(stream), &graph);
  if (ended != cudaSuccess) return ended;
  const cudaError_t counted = cudaGraphGetNodes(graph, nullptr, nodes);
  const cudaError_t destroyed = cudaGraphDestroy(graph);
  return counted != cudaSuccess ? counted : destroyed;
}

}  // extern "C"
