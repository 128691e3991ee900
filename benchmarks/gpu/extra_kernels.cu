#include <cstring>

#include "extra_kernels.h"

namespace vmoe_gpu {
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

cudaError_t launch_empty(cudaStream_t stream) {
  do_nothing<<<1, 32, 0, stream>>>();
  return cudaGetLastError();
}

bool plant_fault(const char* tool) {
  void (*kernel)(unsigned*) = nullptr;
  if (std::strcmp(tool, "memcheck") == 0) kernel = write_past_the_end;
  if (std::strcmp(tool, "racecheck") == 0) kernel = read_what_another_warp_writes;
  if (std::strcmp(tool, "synccheck") == 0) kernel = leave_one_out_of_a_barrier;
  if (std::strcmp(tool, "initcheck") == 0) kernel = read_what_nobody_wrote;
  if (kernel == nullptr) return false;
  unsigned* memory = nullptr;
  if (cudaMalloc(&memory, kThreads * sizeof(unsigned)) == cudaSuccess) {
    kernel<<<1, kThreads>>>(memory);
    cudaDeviceSynchronize();
    cudaFree(memory);
  }
  return true;
}

}  // namespace vmoe_gpu
