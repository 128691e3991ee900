#include "onnxruntime/cuda_call.h"

#include <string>

#include "onnxruntime/ort_error.h"

namespace vmoe::ort {
namespace {

// Where the first input is: on the device that the kernel runs on.
const OrtMemoryInfo* device_memory(const Call& call) {
  const OrtValue* value = nullptr;
  const OrtMemoryInfo* memory = nullptr;
  check(call.api(), call.api().KernelContext_GetInput(call.context(), 0, &value));
  check(call.api(), call.api().GetTensorMemoryInfo(value, &memory));
  return memory;
}

}  // namespace

void check_cuda(cudaError_t error) {
  if (error == cudaSuccess) return;
  throw StatusError(std::string("CUDA says: ") + cudaGetErrorString(error));
}

cudaStream_t stream_of(const Call& call) {
  int device = 0;
  check(call.api(), call.api().MemoryInfoGetId(device_memory(call), &device));
  check_cuda(cudaSetDevice(device));
  void* stream = nullptr;
  check(call.api(), call.api().KernelContext_GetGPUComputeStream(call.context(), &stream));
  return static_cast<cudaStream_t>(stream);
}

Scratch::Scratch(const Call& call, cudaStream_t stream, size_t bytes) : api_(call.api()) {
  if (bytes == 0) return;
  const OrtMemoryInfo* memory = device_memory(call);
  check(api_, api_.KernelContext_GetAllocator(call.context(), memory, &allocator_));
  OrtStatus* status = nullptr;
  if (stream != nullptr) {
    status = api_.KernelContext_GetScratchBuffer(call.context(), memory, bytes, &data_);
  } else {
    data_ = allocator_->Alloc(allocator_, bytes);  // a scratch buffer is one of a stream
  }
  if (status == nullptr && data_ != nullptr) return;
  api_.ReleaseAllocator(allocator_);
  check(api_, status);
  throw StatusError("there is no room for " + std::to_string(bytes) + " bytes of workspace");
}

Scratch::~Scratch() {
  if (allocator_ == nullptr) return;
  allocator_->Free(allocator_, data_);
  api_.ReleaseAllocator(allocator_);
}

}  // namespace vmoe::ort
