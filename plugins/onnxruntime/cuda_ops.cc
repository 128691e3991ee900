#include "onnxruntime/cuda_ops.h"

#include <cuda_runtime_api.h>

#include <string>

#include "cuda/gates_on_host.h"
#include "cuda/limits.h"
#include "cuda/op_calls.h"
#include "onnxruntime/ort_error.h"

namespace vmoe::ort {
namespace {

void check_cuda(cudaError_t error) {
  if (error != cudaSuccess) throw StatusError(std::string("CUDA says: ") + cudaGetErrorString(error));
}

// Returns ONNX Runtime's description of the first input's memory. That memory is on the kernel's device.
const OrtMemoryInfo* device_memory(const Call& call) {
  const OrtValue* value = nullptr;
  const OrtMemoryInfo* memory = nullptr;
  check(call.api(), call.api().KernelContext_GetInput(call.context(), 0, &value));
  check(call.api(), call.api().GetTensorMemoryInfo(value, &memory));
  return memory;
}

// Returns a call's CUDA stream, and makes the call's device the current device. ONNX Runtime does not set the current
// device for this library, because the library has its own CUDA runtime.
cudaStream_t stream_of(const Call& call) {
  int device = 0;
  check(call.api(), call.api().MemoryInfoGetId(device_memory(call), &device));
  check_cuda(cudaSetDevice(device));
  void* stream = nullptr;
  check(call.api(), call.api().KernelContext_GetGPUComputeStream(call.context(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Device memory from ONNX Runtime's arena for the kernels of one call. The destructor frees the memory as soon as the
// kernels have been put on the stream, usually before they run. This is safe, because the arena reuses the memory only
// for later work on the same stream.
class Scratch {
 public:
  // Allocates `bytes` bytes, or nothing if `bytes` is 0. Throws StatusError if there isn't enough memory.
  Scratch(const Call& call, cudaStream_t stream, size_t bytes) : api_(call.api()) {
    if (bytes == 0) return;
    const OrtMemoryInfo* memory = device_memory(call);
    check(api_, api_.KernelContext_GetAllocator(call.context(), memory, &allocator_));
    OrtStatus* status = nullptr;
    if (stream != nullptr) {
      status = api_.KernelContext_GetScratchBuffer(call.context(), memory, bytes, &data_);
    } else {
      data_ = allocator_->Alloc(allocator_, bytes);  // without a stream, ONNX Runtime gives no scratch buffers
    }
    if (status == nullptr && data_ != nullptr) return;
    api_.ReleaseAllocator(allocator_);
    check(api_, status);
    throw StatusError("not enough memory for " + std::to_string(bytes) + " bytes of workspace");
  }
  ~Scratch() {
    if (allocator_ == nullptr) return;
    allocator_->Free(allocator_, data_);
    api_.ReleaseAllocator(allocator_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  void* data() const { return data_; }

 private:
  const OrtApi& api_;
  OrtAllocator* allocator_ = nullptr;
  void* data_ = nullptr;
};

// Returns the sizes of a VmoeGates call. Throws OpError if the GPU kernels don't support these sizes.
cuda::GateShape gate_shape_of(const Call& call) {
  const ops::Sizes& sizes = call.sizes();
  const size_t tokens = sizes['G'] * sizes['S'];
  const char* refusal = cuda::gates_refusal(tokens, sizes['D'], sizes['E']);
  if (refusal != nullptr) throw ops::OpError(refusal);
  return {static_cast<uint32_t>(tokens), static_cast<uint32_t>(sizes['D']), static_cast<uint32_t>(sizes['E'])};
}

// Calls kPut, which puts an op on the call's stream. If the op needs a workspace, kWorkspaceBytes returns its size in
// bytes. Otherwise, kWorkspaceBytes is null. Throws OpError if the GPU kernels don't support the routing.
template <cudaError_t (*kPut)(const cuda::OpCall&), size_t (*kWorkspaceBytes)(const RoutingShape&) = nullptr>
void compute(const Call& call) {
  size_t bytes = 0;
  if constexpr (kWorkspaceBytes != nullptr) {
    const char* refusal = cuda::routing_refusal(call.routing());
    if (refusal != nullptr) throw ops::OpError(std::string(refusal) + "; run it on the CPU");
    bytes = kWorkspaceBytes(call.routing());
  }
  cudaStream_t const stream = stream_of(call);
  const Scratch scratch(call, stream, bytes);
  cuda::OpCall put{call.routing(), call.sizes(), call.types()[ops::ValueType::kT], {}, {}, scratch.data(), stream};
  for (size_t i = 0; i < call.spec().inputs.size(); ++i) put.inputs[i] = call.input(i).data;
  for (size_t i = 0; i < call.spec().outputs.size(); ++i) put.outputs[i] = call.output<void>(i);
  check_cuda(kPut(put));
}

void compute_gates(const Call& call) {
  gate_shape_of(call);
  compute<cuda::put_gates>(call);
}

void compute_gates_on_host(const Call& call) {
  using Input = ops::GatesInput;
  cuda::compute_gates_on_host(gate_shape_of(call), call.data<float>(Input::kX), call.data<float>(Input::kRouter),
                              call.output<float>(ops::GatesOutput::kGates), call.runner());
}

}  // namespace

void add_cuda_ops(OpList& list, const char* provider) {
  add_op(list, {ops::kGates, without_state<compute_gates>}, provider);
  add_op(list, {ops::kRoute, without_state<compute<cuda::put_route, cuda::route_workspace_bytes>>}, provider);
  add_op(list, {ops::kDispatch, without_state<compute<cuda::put_dispatch>>}, provider);
  add_op(list,
         {ops::kRouteDispatch, without_state<compute<cuda::put_route_dispatch, cuda::route_dispatch_workspace_bytes>>},
         provider);
  add_op(list, {ops::kCombine, without_state<compute<cuda::put_combine>>}, provider);
}

void add_gates_on_host(OpList& list) { add_op(list, {ops::kGates, without_state<compute_gates_on_host>}); }

}  // namespace vmoe::ort
