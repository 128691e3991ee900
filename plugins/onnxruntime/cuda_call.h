// What a kernel on a GPU asks of ONNX Runtime, besides its tensors.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "onnxruntime/kernel_info.h"

namespace vmoe::ort {

// Throws StatusError for anything but success.
void check_cuda(cudaError_t error);

// A call's stream, its device made the current one: the CUDA runtime in this library is another than ONNX Runtime's.
cudaStream_t stream_of(const Call& call);

// Device memory for the kernels of one call, from ONNX Runtime's arena. It goes back as soon as they are in the stream:
// what the arena gives out next is used behind them, in the same stream.
class Scratch {
 public:
  // Throws StatusError if there isn't enough memory. `bytes` may be 0.
  Scratch(const Call& call, cudaStream_t stream, size_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  void* data() const { return data_; }

 private:
  const OrtApi& api_;
  OrtAllocator* allocator_ = nullptr;
  void* data_ = nullptr;
};

}  // namespace vmoe::ort
