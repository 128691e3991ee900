// What the tests control in the emulated GPU behind the fake CUDA runtime.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "machine.h"

namespace gpu_emulator {

// An emulated GPU. The process has one, which runs the kernels in this library.
struct Device {
  // Which of the PTX versions in the library runs: 80 stands for sm_80 and sm_90, 100 for sm_100 and sm_120.
  int dialect = 80;
  int processors = 2;
  // Launches on any other stream are faults.
  cudaStream_t stream = nullptr;
  cudaError_t last_error = cudaSuccess;  // of a launch that failed; cudaGetLastError resets it
  // Whether launches are captured in a graph instead of being run, and the number of them so far.
  bool is_capturing = false;
  size_t captured = 0;

  Machine machine;
};

Device& device();

}  // namespace gpu_emulator
