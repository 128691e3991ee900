// Stands in for a GPU: the kernels' C++ interface on the CPU's memory, and the few functions of the CUDA runtime that
// the GPU benchmark's own C++ calls. So what checks the kernels can be checked where there is no GPU; the kernels
// can't.
//
// The environment variable VMOE_STAND_IN_FAULT makes one thing wrong: slot, weight, src, buf, y, fused (RouteDispatch's
// slot alone), order (vanilla order instead of Batch Priority Routing), past (a byte behind buf), unsteady (y, every
// third time), launches (one too many), refuse (CUDA's error 700), memset (CUDA's error 700 where memory is filled).
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "core/combine.h"
#include "core/dispatch.h"
#include "core/routing.h"
#include "cuda/ops.h"
#include "extra_kernels.h"

namespace {

bool g_counting = false;
size_t g_nodes = 0;

bool Fault(const char* name) {
  const char* fault = std::getenv("VMOE_STAND_IN_FAULT");
  return fault != nullptr && std::strcmp(fault, name) == 0;
}

void Spoil(const char* name, void* tensor) {
  if (Fault(name)) *static_cast<unsigned char*>(tensor) ^= 1;
}

// Whether these launches are counted instead of run.
bool Counts(size_t launches) {
  if (g_counting) g_nodes += launches + (Fault("launches") ? 1 : 0);
  return g_counting;
}

void RouteOnCpu(vmoe::RoutingShape shape, vmoe::ElementType type, const void* gates, int32_t* slot, void* weight,
                int32_t* src) {
  if (Fault("order")) shape.batch_priority = false;
  vmoe::Route(shape, type, gates, slot, weight, src, vmoe::SerialRunner());
}

void DispatchOnCpu(const void* x, const int32_t* src, size_t places, size_t row_bytes, void* buf) {
  vmoe::Dispatch(x, src, places, row_bytes, buf, vmoe::SerialRunner());
  Spoil("buf", buf);
  if (Fault("past")) static_cast<unsigned char*>(buf)[places * row_bytes] = 0;
}

}  // namespace

namespace vmoe::cuda {

cudaError_t Route(const RoutingShape& shape, ElementType type, const void* gates, int32_t* slot, void* weight,
                  int32_t* src, int32_t*, void*, cudaStream_t) {
  if (Fault("refuse")) return cudaErrorIllegalAddress;
  if (RoutingRefusal(shape) != nullptr) return cudaErrorInvalidValue;
  if (Counts(RouteWorkspaceBytes(shape) == 0 ? 1 : 2)) return cudaSuccess;
  RouteOnCpu(shape, type, gates, slot, weight, src);
  Spoil("slot", slot);
  Spoil("weight", weight);
  Spoil("src", src);
  return cudaSuccess;
}

cudaError_t Dispatch(const void* x, size_t, const int32_t* src, size_t places, size_t row_bytes, void* buf,
                     cudaStream_t) {
  if (!Counts(1)) DispatchOnCpu(x, src, places, row_bytes, buf);
  return cudaSuccess;
}

cudaError_t RouteDispatch(const RoutingShape& shape, ElementType gate_type, const void* gates, const void* x,
                          size_t row_bytes, int32_t* slot, void* weight, void* buf, void*, cudaStream_t) {
  if (RoutingRefusal(shape) != nullptr) return cudaErrorInvalidValue;
  if (Counts(RouteWorkspaceBytes(shape) == 0 ? 1 : 3)) return cudaSuccess;
  const size_t places = shape.experts * shape.places();
  std::vector<int32_t> src(places);
  RouteOnCpu(shape, gate_type, gates, slot, weight, src.data());
  Spoil("fused", slot);
  DispatchOnCpu(x, src.data(), places, row_bytes, buf);
  return cudaSuccess;
}

cudaError_t Combine(ElementType type, const void* out, size_t, const int32_t* slot, ElementType weight_type,
                    const void* weight, size_t tokens, size_t choices, size_t hidden, void* y, cudaStream_t) {
  static int calls = 0;
  if (Counts(1)) return cudaSuccess;
  vmoe::Combine(type, out, slot, weight_type, weight, tokens, choices, hidden, y, SerialRunner());
  Spoil("y", y);
  if (++calls % 3 == 0) Spoil("unsteady", y);
  return cudaSuccess;
}

}  // namespace vmoe::cuda

namespace vmoe_gpu {

cudaError_t LaunchEmpty(cudaStream_t) {
  Counts(1);
  return cudaSuccess;
}

bool PlantFault(const char*) { return true; }

}  // namespace vmoe_gpu

extern "C" {

const char* cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : "stand-in error"; }

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

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** memory, size_t bytes) {
  *memory = std::malloc(bytes);
  return *memory != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaMemset(void* memory, int value, size_t bytes) {
  if (Fault("memset")) return cudaErrorIllegalAddress;
  std::memset(memory, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

}  // extern "C"
