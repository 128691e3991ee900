#include "onnxruntime/cuda_call.h"

#include <string>

#include "onnxruntime/ort_error.h"

namespace vmoe::ort {
namespace {

// Where the first input is: on the device that the kernel runs on.
const OrtMemoryInfo* DeviceMemory(const Call& call) {
  const OrtValue* value = nullptr;
  const OrtMemoryInfo* memory = nullptr;
  Check(call.api(), call.api().KernelContext_GetInput(call.context(), 0, &value));
  Check(call.api(), call.api().GetTensorMemoryInfo(value, &memory));
  return memory;
}

}  // namespace

void CheckCuda(cudaError_t error) {
  if (error == cudaSuccess) return;
  throw StatusError(std::string("CUDA says: ") + cudaGetErrorString(error));
}

cudaStream_t StreamOf(const Call& call) {
  int device = 0;
  Check(call.api(), call.api().MemoryInfoGetId(DeviceMemory(call), &device));
  CheckCuda(cudaSetDevice(device));
  void* stream = nullptr;
  Check(call.api(), call.api().KernelContext_GetGPUComputeStream(call.context(), &stream));
  return static_cast<cudaStream_t>(stream);
}

Scratch::Scratch(const Call& call, cudaStream_t stream, size_t bytes) : api_(call.api()) {
  if (bytes == 0) return;
  const OrtMemoryInfo* memory = DeviceMemory(call);
  Check(api_, api_.KernelContext_GetAllocator(call.context(), memory, &allocator_));
  OrtStatus* status = nullptr;
  if (stream != nullptr) {
    status = api_.KernelContext_GetScratchBuffer(call.context(), memory, bytes, &data_);
  } else {
    data_ = allocator_->Alloc(allocator_, bytes);  // a scratch buffer is one of a stream
  }
  if (status == nullptr && data_ != nullptr) return;
  api_.ReleaseAllocator(allocator_);
  Check(api_, status);
  throw StatusError("there is no room for " + std::to_string(bytes) + " bytes of workspace");
}

Scratch::~Scratch() {
  if (allocator_ == nullptr) return;
  allocator_->Free(allocator_, data_);
  api_.ReleaseAllocator(allocator_);
}

}  // namespace vmoe::ort
