// Lets the kernels' callers pass tensors in host memory. Each function of cuda/ops.h is replaced by one that registers
// the tensors with their sizes for the duration of the call, so that accesses outside of them are faults. Pointers to
// the emulator's device memory are passed on as they are.
//
// The kernels are compiled with another name for each function: emulated_route for route, for example.
#include <vector>

#include "cuda/ops.h"
#include "fake_runtime.h"

using gpu_emulator::device;
using gpu_emulator::DeviceMemory;

namespace vmoe::cuda {

cudaError_t emulated_compute_gates(const float* x, const float* router, size_t tokens, size_t hidden, size_t experts,
                                   float* gates, cudaStream_t stream);
cudaError_t emulated_route(const RoutingShape& shape, const float* gates, int32_t* slot, float* weight, int32_t* src,
                           int32_t* expert, void* workspace, cudaStream_t stream);
cudaError_t emulated_dispatch(const void* x, size_t tokens, const int32_t* src, size_t slots, size_t row_bytes,
                              void* buf, cudaStream_t stream);
cudaError_t emulated_route_dispatch(const RoutingShape& shape, const float* gates, const void* x, size_t row_bytes,
                                    int32_t* slot, float* weight, void* buf, void* workspace, cudaStream_t stream);
cudaError_t emulated_combine(ElementType type, const void* out, size_t slots, const int32_t* slot, const float* weight,
                             size_t tokens, size_t choices, size_t hidden, void* y, cudaStream_t stream);

namespace {

// Tensors in host memory, which are registered until finish().
class HostTensors {
 public:
  HostTensors& input(const void* tensor, size_t bytes) { return add(const_cast<void*>(tensor), bytes, true, false); }
  HostTensors& output(void* tensor, size_t bytes) { return add(tensor, bytes, false, true); }
  HostTensors& workspace(void* memory, size_t bytes) { return add(memory, bytes, false, false); }

  // Returns `error`, the result of the call. If it is a success, each output must have been written.
  cudaError_t finish(cudaError_t error) {
    const bool has_run = error == cudaSuccess && !device().is_capturing;
    for (const Tensor& tensor : tensors_) {
      device().machine.memory().unregister_host(tensor.memory, has_run && tensor.is_output);
    }
    return error;
  }

 private:
  struct Tensor {
    void* memory;
    bool is_output;
  };

  std::vector<Tensor> tensors_;

  HostTensors& add(void* memory, size_t bytes, bool is_input, bool is_output) {
    if (memory == nullptr || bytes == 0 || DeviceMemory::is_device_address(reinterpret_cast<uint64_t>(memory))) {
      return *this;
    }
    device().machine.memory().register_host(memory, bytes, is_input);
    tensors_.push_back({memory, is_output});
    return *this;
  }
};

// With VMOE_ADAPTER, the emulated GPU refuses rows of 13 numbers of 4 bytes, so that tests see how an error is
// reported.
bool refuses([[maybe_unused]] size_t row_bytes) {
#ifdef VMOE_ADAPTER
  return row_bytes == 52;
#else
  return false;
#endif
}

}  // namespace

cudaError_t compute_gates(const float* x, const float* router, size_t tokens, size_t hidden, size_t experts,
                          float* gates, cudaStream_t stream) {
  if (refuses(hidden * 4)) return cudaErrorIllegalAddress;
  HostTensors tensors;
  tensors.input(x, tokens * hidden * 4).input(router, hidden * experts * 4).output(gates, tokens * experts * 4);
  return tensors.finish(emulated_compute_gates(x, router, tokens, hidden, experts, gates, stream));
}

cudaError_t route(const RoutingShape& shape, const float* gates, int32_t* slot, float* weight, int32_t* src,
                  int32_t* expert, void* workspace, cudaStream_t stream) {
  const size_t tokens = shape.groups * shape.tokens;
  const size_t pairs = tokens * shape.choices;
  HostTensors tensors;
  tensors.input(gates, tokens * shape.experts * 4).output(slot, pairs * 4).output(weight, pairs * 4);
  tensors.output(src, shape.experts * shape.slots() * 4).output(expert, pairs * 4);
  if (routing_refusal(shape) == nullptr) tensors.workspace(workspace, route_workspace_bytes(shape));
  return tensors.finish(emulated_route(shape, gates, slot, weight, src, expert, workspace, stream));
}

cudaError_t dispatch(const void* x, size_t tokens, const int32_t* src, size_t slots, size_t row_bytes, void* buf,
                     cudaStream_t stream) {
  if (refuses(row_bytes)) return cudaErrorIllegalAddress;
  HostTensors tensors;
  tensors.input(x, tokens * row_bytes).input(src, slots * 4).output(buf, slots * row_bytes);
  return tensors.finish(emulated_dispatch(x, tokens, src, slots, row_bytes, buf, stream));
}

cudaError_t route_dispatch(const RoutingShape& shape, const float* gates, const void* x, size_t row_bytes,
                           int32_t* slot, float* weight, void* buf, void* workspace, cudaStream_t stream) {
  if (refuses(row_bytes)) return cudaErrorIllegalAddress;
  const size_t tokens = shape.groups * shape.tokens;
  const size_t pairs = tokens * shape.choices;
  HostTensors tensors;
  tensors.input(gates, tokens * shape.experts * 4).input(x, tokens * row_bytes);
  tensors.output(slot, pairs * 4).output(weight, pairs * 4).output(buf, shape.experts * shape.slots() * row_bytes);
  if (routing_refusal(shape) == nullptr) tensors.workspace(workspace, route_dispatch_workspace_bytes(shape));
  return tensors.finish(emulated_route_dispatch(shape, gates, x, row_bytes, slot, weight, buf, workspace, stream));
}

cudaError_t combine(ElementType type, const void* out, size_t slots, const int32_t* slot, const float* weight,
                    size_t tokens, size_t choices, size_t hidden, void* y, cudaStream_t stream) {
  const size_t row_bytes = hidden * bytes_of(type);
  if (refuses(row_bytes)) return cudaErrorIllegalAddress;
  HostTensors tensors;
  tensors.input(out, slots * row_bytes).input(slot, tokens * choices * 4).input(weight, tokens * choices * 4);
  tensors.output(y, tokens * row_bytes);
  return tensors.finish(emulated_combine(type, out, slots, slot, weight, tokens, choices, hidden, y, stream));
}

}  // namespace vmoe::cuda
