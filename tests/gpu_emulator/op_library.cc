// The CUDA op library for ONNX Runtime on the emulator. Its ops run as ops of the CPU, with tensors in host memory. To
// the ops, ONNX Runtime looks as its CUDA provider does: a call has a stream, and a workspace in device memory. If the
// emulator finds a fault in a call, the call fails with the fault.
#include <string>

#include "fake_runtime.h"
#include "onnxruntime/cuda_ops.h"

namespace vmoe::ort {
namespace {

using gpu_emulator::device;

char g_stream;  // its address is the stream

decltype(OrtCustomOp::CreateKernelV2) g_create_kernel = nullptr;  // of the op library
decltype(OrtCustomOp::KernelComputeV2) g_compute = nullptr;
const OrtApi* g_api = nullptr;

// ONNX Runtime's API, with other functions for streams and device memory.
OrtApi emulated_api(const OrtApi& api) {
  OrtApi emulated = api;
  emulated.KernelContext_GetGPUComputeStream = [](const OrtKernelContext*, void** stream) noexcept -> OrtStatus* {
    *stream = device().stream = reinterpret_cast<cudaStream_t>(&g_stream);
    return nullptr;
  };
  emulated.KernelContext_GetAllocator = [](const OrtKernelContext*, const OrtMemoryInfo*,
                                           OrtAllocator** allocator) noexcept -> OrtStatus* {
    *allocator = new OrtAllocator{};
    (*allocator)->Free = [](OrtAllocator*, void* memory) { static_cast<void>(cudaFree(memory)); };
    return nullptr;
  };
  emulated.ReleaseAllocator = [](OrtAllocator* allocator) { delete allocator; };
  emulated.KernelContext_GetScratchBuffer = [](const OrtKernelContext*, const OrtMemoryInfo*, size_t bytes,
                                               void** memory) noexcept -> OrtStatus* {
    static_cast<void>(cudaMalloc(memory, bytes));
    return nullptr;
  };
  return emulated;
}

OrtStatus* create_kernel(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** state) {
  static const auto* const emulated = new OrtApi(emulated_api(*api));
  g_api = emulated;
  return g_create_kernel(op, emulated, info, state);
}

OrtStatus* compute(void* state, OrtKernelContext* context) {
  OrtStatus* const status = g_compute(state, context);
  std::string text;
  for (const std::string& fault : device().machine.take_faults()) text += fault + "\n";
  return text.empty() ? status : g_api->CreateStatus(ORT_FAIL, text.c_str());
}

}  // namespace

OpList library_ops() {
  OpList list;
  add_cuda_ops(list, nullptr);
  for (const OrtCustomOp* const op : list) {
    auto* const changed = const_cast<OrtCustomOp*>(op);
    g_create_kernel = changed->CreateKernelV2;
    g_compute = changed->KernelComputeV2;
    changed->CreateKernelV2 = create_kernel;
    changed->KernelComputeV2 = compute;
  }
  return list;
}

}  // namespace vmoe::ort
