#include <cuda_runtime_api.h>

#include <cstring>

namespace {

constexpr unsigned kThreads = 64;

__global__ void do_nothing() {}

__global__ void write_past_the_end(unsigned* memory) { memory[threadIdx.x + 1] = 0; }

__global__ void read_what_another_warp_writes(unsigned* memory) {
  __shared__ unsigned shared[kThreads];
  shared[threadIdx.x] = threadIdx.x;
  memory[threadIdx.x] = shared[kThreads - 1 - threadIdx.x];
}

__global__ void leave_one_out_of_a_barrier(unsigned* memory) {
  if (threadIdx.x < kThreads - 1) __syncthreads();
  memory[threadIdx.x] = 0;
}

__global__ void read_what_nobody_wrote(unsigned* memory) { memory[threadIdx.x] += 1; }

}  // namespace

// A kernel that does nothing: what a launch costs.
extern "C" int vmoe_gpu_empty(void* stream) {
  do_nothing<<<1, 32, 0, static_cast<cudaStream_t>(stream)>>>();
  return cudaGetLastError();
}

// Runs a kernel that is wrong on purpose, which a tool of compute-sanitizer must report: memcheck, racecheck, synccheck
// or initcheck. Any other name is an error. What CUDA says to the kernel is of no interest.
extern "C" int vmoe_gpu_plant(const char* tool) {
  void (*kernel)(unsigned*) = nullptr;
  if (std::strcmp(tool, "memcheck") == 0) kernel = write_past_the_end;
  if (std::strcmp(tool, "racecheck") == 0) kernel = read_what_another_warp_writes;
  if (std::strcmp(tool, "synccheck") == 0) kernel = leave_one_out_of_a_barrier;
  if (std::strcmp(tool, "initcheck") == 0) kernel = read_what_nobody_wrote;
  if (kernel == nullptr) return cudaErrorInvalidValue;
  unsigned* memory = nullptr;
  if (cudaMalloc(&memory, kThreads * sizeof(unsigned)) == cudaSuccess) {
    kernel<<<1, kThreads>>>(memory);
    cudaDeviceSynchronize();
    cudaFree(memory);
  }
  return cudaSuccess;
}
