// A GPU emulator. It provides the kernels' C++ interface, computed on the CPU, and the few CUDA runtime functions that
// callers of the kernels need. With it, machines without a GPU can test the code that calls the kernels, but not the
// kernels themselves.
//
// The callers are the GPU benchmark's C++ code and, if VMOE_ADAPTER is defined, the op library for ONNX Runtime's CUDA
// provider. In this case, the library's ops run as CPU ops.
//
// If the environment variable VMOE_EMULATOR_FAULT is set, each dispatch writes one wrong bit.
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "core/dispatch.h"
#include "core/routing.h"
#include "cuda/gates_on_host.h"
#include "cuda/ops.h"
#ifdef VMOE_ADAPTER
#include "onnxruntime/cuda_ops.h"
#endif

namespace {

bool g_counting = false;
size_t g_nodes = 0;

// Returns whether the emulated CUDA refuses a call. If VMOE_ADAPTER is defined, it refuses rows of 52 bytes (13 numbers
// of 4 bytes).
bool refuses([[maybe_unused]] size_t row_bytes) {
#ifdef VMOE_ADAPTER
  return row_bytes == 52;
#else
  return false;
#endif
}

// If launches are being counted, adds `launches` to the count and returns true. In this case, the caller must not run
// anything. Otherwise returns false.
bool count_instead(size_t launches) {
  if (g_counting) g_nodes += launches;
  return g_counting;
}

// Returns null if the kernels may run; otherwise returns why they may not. Overwrites the whole workspace, because real
// kernels may use all of it.
const char* refusal(const vmoe::RoutingShape& shape, void* workspace, size_t bytes) {
  if (bytes > 0 && workspace == nullptr) return "no workspace";
  if (const char* refused = vmoe::cuda::routing_refusal(shape)) return refused;
  if (bytes > 0 && !g_counting) std::memset(workspace, 0xff, bytes);
  return nullptr;
}

void route_on_cpu(const vmoe::RoutingShape& shape, const float* gates, int32_t* slot, float* weight, int32_t* src,
                  int32_t* expert) {
  vmoe::route(shape, gates, slot, weight, [src](size_t) { return src; }, expert, vmoe::serial_runner());
}

void dispatch_on_cpu(const void* x, const int32_t* src, size_t slots, size_t row_bytes, void* buf) {
  vmoe::dispatch(x, src, slots, row_bytes, buf, vmoe::serial_runner());
  if (std::getenv("VMOE_EMULATOR_FAULT") != nullptr) *static_cast<unsigned char*>(buf) ^= 1;
}

}  // namespace

namespace vmoe::cuda {

cudaError_t compute_gates(const float* x, const float* router, size_t tokens, size_t hidden, size_t experts,
                          float* gates, cudaStream_t) {
  if (refuses(hidden * sizeof(float))) return cudaErrorIllegalAddress;
  if (gates_refusal(tokens, hidden, experts) != nullptr) return cudaErrorInvalidValue;
  const GateShape shape{static_cast<uint32_t>(tokens), static_cast<uint32_t>(hidden), static_cast<uint32_t>(experts)};
  compute_gates_on_host(shape, x, router, gates, serial_runner());
  return cudaSuccess;
}

cudaError_t route(const RoutingShape& shape, const float* gates, int32_t* slot, float* weight, int32_t* src,
                  int32_t* expert, void* workspace, cudaStream_t) {
  if (refusal(shape, workspace, route_workspace_bytes(shape)) != nullptr) return cudaErrorInvalidValue;
  if (count_instead(route_workspace_bytes(shape) == 0 ? 1 : 2)) return cudaSuccess;
  route_on_cpu(shape, gates, slot, weight, src, expert);
  return cudaSuccess;
}

cudaError_t dispatch(const void* x, size_t, const int32_t* src, size_t slots, size_t row_bytes, void* buf,
                     cudaStream_t) {
  if (refuses(row_bytes)) return cudaErrorIllegalAddress;
  if (!count_instead(1)) dispatch_on_cpu(x, src, slots, row_bytes, buf);
  return cudaSuccess;
}

cudaError_t route_dispatch(const RoutingShape& shape, const float* gates, const void* x, size_t row_bytes,
                           int32_t* slot, float* weight, void* buf, void* workspace, cudaStream_t) {
  if (refuses(row_bytes)) return cudaErrorIllegalAddress;
  if (refusal(shape, workspace, route_dispatch_workspace_bytes(shape)) != nullptr) return cudaErrorInvalidValue;
  if (count_instead(route_workspace_bytes(shape) == 0 ? 1 : 3)) return cudaSuccess;
  const size_t slots = shape.experts * shape.slots();
  std::vector<int32_t> src(slots);
  route_on_cpu(shape, gates, slot, weight, src.data(), nullptr);
  dispatch_on_cpu(x, src.data(), slots, row_bytes, buf);
  return cudaSuccess;
}

cudaError_t combine(ElementType type, const void* out, size_t, const int32_t* slot, const float* weight, size_t tokens,
                    size_t choices, size_t hidden, void* y, cudaStream_t) {
  if (refuses(hidden * bytes_of(type))) return cudaErrorIllegalAddress;
  if (count_instead(1)) return cudaSuccess;
  vmoe::combine(type, out, slot, weight, tokens, choices, hidden, y, serial_runner());
  return cudaSuccess;
}

}  // namespace vmoe::cuda

#ifdef VMOE_ADAPTER
namespace vmoe::ort {

OpList library_ops() {
  OpList list;
  add_cuda_ops(list, nullptr);
  return list;
}

}  // namespace vmoe::ort
#endif

extern "C" {

int vmoe_gpu_empty(void*) {
  count_instead(1);
  return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : "emulated error"; }

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  g_counting = true;
  g_nodes = 0;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t*) {
  g_counting = false;
  return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t, cudaGraphNode_t*, size_t* count) {
  *count = g_nodes;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t) { return cudaSuccess; }

cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
cudaError_t cudaMalloc(void** memory, size_t bytes) {
  *memory = std::malloc(bytes);
  return *memory != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

}  // extern "C"
