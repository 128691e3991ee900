// The ops for the CUDA provider as an op library for the CPU: the adapter is the product's, and what it calls of the
// GPU is here. Kernels are those of the CPU, the stream is none, and memory that a kernel may use as workspace is
// overwritten. A row of 13 bytes times 4 makes CUDA fail.
#include <cstring>

#include "core/dispatch.h"
#include "core/routing.h"
#include "cuda/gates_on_host.h"
#include "cuda/ops.h"
#include "onnxruntime/cuda_ops.h"

cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
const char* cudaGetErrorString(cudaError_t error) { return error == cudaErrorNoDevice ? "no device" : "another error"; }

namespace vmoe::cuda {
namespace {

constexpr size_t kFailingRow = 52;

cudaError_t use_workspace(void* workspace, size_t bytes) {
  if ((workspace == nullptr) != (bytes == 0)) return cudaErrorInvalidValue;
  if (bytes > 0) std::memset(workspace, 0xff, bytes);
  return cudaSuccess;
}

}  // namespace

cudaError_t compute_gates(const float* x, const float* router, size_t tokens, size_t hidden, size_t experts,
                          float* gates, cudaStream_t) {
  if (gates_refusal(tokens, hidden, experts) != nullptr) return cudaErrorInvalidValue;
  if (hidden * sizeof(float) == kFailingRow) return cudaErrorNoDevice;
  const GateShape shape{static_cast<uint32_t>(tokens), static_cast<uint32_t>(hidden), static_cast<uint32_t>(experts)};
  compute_gates_on_host(shape, x, router, gates, serial_runner());
  return cudaSuccess;
}

cudaError_t route(const RoutingShape& shape, ElementType type, const void* gates, int32_t* slot, void* weight,
                  int32_t* src, int32_t* expert, void* workspace, cudaStream_t) {
  if (routing_refusal(shape) != nullptr) return cudaErrorInvalidValue;
  vmoe::route(shape, type, gates, slot, weight, [src](size_t) { return src; }, expert, serial_runner());
  return use_workspace(workspace, route_workspace_bytes(shape));
}

cudaError_t dispatch(const void* x, size_t, const int32_t* src, size_t places, size_t row_bytes, void* buf,
                     cudaStream_t) {
  if (row_bytes == kFailingRow) return cudaErrorNoDevice;
  vmoe::dispatch(x, src, places, row_bytes, buf, serial_runner());
  return cudaSuccess;
}

cudaError_t route_dispatch(const RoutingShape& shape, ElementType gate_type, const void* gates, const void* x,
                           size_t row_bytes, int32_t* slot, void* weight, void* buf, void* workspace, cudaStream_t) {
  if (routing_refusal(shape) != nullptr) return cudaErrorInvalidValue;
  if (row_bytes == kFailingRow) return cudaErrorNoDevice;
  vmoe::route_dispatch(shape, gate_type, gates, x, row_bytes, slot, weight, buf, serial_runner());
  return use_workspace(workspace, route_dispatch_workspace_bytes(shape));
}

cudaError_t combine(ElementType type, const void* out, size_t, const int32_t* slot, ElementType weight_type,
                    const void* weight, size_t tokens, size_t choices, size_t hidden, void* y, cudaStream_t) {
  if (hidden * bytes_of(type) == kFailingRow) return cudaErrorNoDevice;
  vmoe::combine(type, out, slot, weight_type, weight, tokens, choices, hidden, y, serial_runner());
  return cudaSuccess;
}

}  // namespace vmoe::cuda

namespace vmoe::ort {

OpList library_ops() {
  OpList list;
  add_cuda_ops(list, nullptr);
  return list;
}

}  // namespace vmoe::ort
