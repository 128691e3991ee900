// What the checks need of CUDA beside the kernels, and without torch; every function returns 0 or CUDA's error code.
#include <cuda_runtime_api.h>

extern "C" {

int vmoe_gpu_allocate(void** memory, size_t bytes) { return cudaMalloc(memory, bytes == 0 ? 1 : bytes); }

int vmoe_gpu_release(void* memory) { return cudaFree(memory); }

int vmoe_gpu_copy(void* to, const void* from, size_t bytes) { return cudaMemcpy(to, from, bytes, cudaMemcpyDefault); }

int vmoe_gpu_synchronize() { return cudaDeviceSynchronize(); }

// What is put on the stream in between is not run but counted: the nodes of its CUDA graph. Anything that allocates or
// synchronises in between is an error. Not for the default stream.
int vmoe_gpu_begin_count(void* stream) {
  return cudaStreamBeginCapture(static_cast<cudaStream_t>(stream), cudaStreamCaptureModeThreadLocal);
}

int vmoe_gpu_end_count(void* stream, size_t* nodes) {
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(static_cast<cudaStream_t>(stream), &graph);
  if (ended != cudaSuccess) return ended;
  const cudaError_t counted = cudaGraphGetNodes(graph, nullptr, nodes);
  const cudaError_t destroyed = cudaGraphDestroy(graph);
  return counted != cudaSuccess ? counted : destroyed;
}

}  // extern "C"
