#include <cstring>

#include "extra_kernels.h"

namespace vmoe_gpu {
namespace {

constexpr unsigned kThreads = 64;

__global__ void Empty() {}

__global__ void WritePastTheEnd(unsigned* memory) { memory[threadIdx.x + 1] = 0; }

__global__ void ReadWhatAnotherWarpWrites(unsigned* memory) {
  __shared__ unsigned shared[kThreads];
  shared[threadIdx.x] = threadIdx.x;
  memory[threadIdx.x] = shared[kThreads - 1 - threadIdx.x];
}

__global__ void LeaveOneOutOfABarrier(unsigned* memory) {
  if (threadIdx.x < kThreads - 1) __syncthreads();
  memory[threadIdx.x] = 0;
}

__global__ void ReadWhatNobodyWrote(unsigned* memory) { memory[threadIdx.x] += 1; }

}  // namespace

cudaError_t LaunchEmpty(cudaStream_t stream) {
  Empty<<<1, 32, 0, stream>>>();
  return cudaGetLastError();
}

bool PlantFault(const char* tool) {
  void (*kernel)(unsigned*) = nullptr;
  if (std::strcmp(tool, "memcheck") == 0) kernel = WritePastTheEnd;
  if (std::strcmp(tool, "racecheck") == 0) kernel = ReadWhatAnotherWarpWrites;
  if (std::strcmp(tool, "synccheck") == 0) kernel = LeaveOneOutOfABarrier;
  if (std::strcmp(tool, "initcheck") == 0) kernel = ReadWhatNobodyWrote;
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
