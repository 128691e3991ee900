#include "device_calls.h"

#include <cuda_runtime_api.h>

#include "cuda/ops.h"
#include "empty_kernel.h"

namespace {

using vmoe::ElementType;

cudaStream_t AsStream(void* stream) { return static_cast<cudaStream_t>(stream); }

vmoe::RoutingShape AsShape(const VmoeShape& shape) {
  return {shape.groups, shape.tokens, shape.experts, shape.choices, shape.capacity, shape.batch_priority != 0};
}

}  // namespace

extern "C" {

const char* vmoe_gpu_error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

const char* vmoe_gpu_routing_refusal(const VmoeShape* shape) { return vmoe::cuda::RoutingRefusal(AsShape(*shape)); }

size_t vmoe_gpu_route_workspace_bytes(const VmoeShape* shape) {
  return vmoe::cuda::RouteWorkspaceBytes(AsShape(*shape));
}

size_t vmoe_gpu_route_dispatch_workspace_bytes(const VmoeShape* shape) {
  return vmoe::cuda::RouteDispatchWorkspaceBytes(AsShape(*shape));
}

int vmoe_gpu_route(const VmoeShape* shape, int32_t type, const void* gates, int32_t* slot, void* weight, int32_t* src,
                   void* workspace, void* stream) {
  return vmoe::cuda::Route(AsShape(*shape), static_cast<ElementType>(type), gates, slot, weight, src, nullptr,
                           workspace, AsStream(stream));
}

int vmoe_gpu_dispatch(const void* x, size_t tokens, const int32_t* src, size_t places, size_t row_bytes, void* buf,
                      void* stream) {
  return vmoe::cuda::Dispatch(x, tokens, src, places, row_bytes, buf, AsStream(stream));
}

int vmoe_gpu_route_dispatch(const VmoeShape* shape, int32_t gate_type, const void* gates, const void* x,
                            size_t row_bytes, int32_t* slot, void* weight, void* buf, void* workspace, void* stream) {
  return vmoe::cuda::RouteDispatch(AsShape(*shape), static_cast<ElementType>(gate_type), gates, x, row_bytes, slot,
                                   weight, buf, workspace, AsStream(stream));
}

int vmoe_gpu_combine(int32_t type, const void* out, size_t places, const int32_t* slot, int32_t weight_type,
                     const void* weight, size_t tokens, size_t choices, size_t hidden, void* y, void* stream) {
  return vmoe::cuda::Combine(static_cast<ElementType>(type), out, places, slot, static_cast<ElementType>(weight_type),
                             weight, tokens, choices, hidden, y, AsStream(stream));
}

int vmoe_gpu_empty(void* stream) { return vmoe_gpu::LaunchEmpty(AsStream(stream)); }

int vmoe_gpu_begin_count(void* stream) {
  return cudaStreamBeginCapture(AsStream(stream), cudaStreamCaptureModeThreadLocal);
}

int vmoe_gpu_end_count(void* stream, size_t* nodes) {
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(AsStream(stream), &graph);
  if (ended != cudaSuccess) return ended;
  const cudaError_t counted = cudaGraphGetNodes(graph, nullptr, nodes);
  const cudaError_t destroyed = cudaGraphDestroy(graph);
  return counted != cudaSuccess ? counted : destroyed;
}

}  // extern "C"
