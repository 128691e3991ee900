#include "onnxruntime/cuda_ops.h"

#include <cuda_runtime_api.h>

#include <string>

#include "cuda/gates_on_host.h"
#include "cuda/ops.h"
#include "onnxruntime/ort_error.h"

namespace vmoe::ort {
namespace {

void check_cuda(cudaError_t error) {
  if (error != cudaSuccess) throw StatusError(std::string("CUDA says: ") + cudaGetErrorString(error));
}

// Where the first input is: on the device that the kernel runs on.
const OrtMemoryInfo* device_memory(const Call& call) {
  const OrtValue* value = nullptr;
  const OrtMemoryInfo* memory = nullptr;
  check(call.api(), call.api().KernelContext_GetInput(call.context(), 0, &value));
  check(call.api(), call.api().GetTensorMemoryInfo(value, &memory));
  return memory;
}

// A call's stream, its device made the current one: the CUDA runtime in this library is another than ONNX Runtime's.
cudaStream_t stream_of(const Call& call) {
  int device = 0;
  check(call.api(), call.api().MemoryInfoGetId(device_memory(call), &device));
  check_cuda(cudaSetDevice(device));
  void* stream = nullptr;
  check(call.api(), call.api().KernelContext_GetGPUComputeStream(call.context(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Device memory for the kernels of one call, from ONNX Runtime's arena. It goes back as soon as they are in the stream:
// what the arena gives out next is used behind them, in the same stream.
class Scratch {
 public:
  // Throws StatusError if there isn't enough memory. `bytes` may be 0.
  Scratch(const Call& call, cudaStream_t stream, size_t bytes) : api_(call.api()) {
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

// The routing of one call, which the GPU's kernels can do.
const RoutingShape& routing_of(const Call& call) {
  const char* refusal = cuda::routing_refusal(call.routing());
  if (refusal != nullptr) throw ops::OpError(std::string(refusal) + "; run it on the CPU");
  return call.routing();
}

// The sizes of a call of VmoeGates. Throws OpError for those that a GPU can't do.
cuda::GateShape gate_shape_of(const Call& call) {
  const ops::Sizes& sizes = call.sizes();
  const size_t tokens = sizes['G'] * sizes['S'];
  const char* refusal = cuda::gates_refusal(tokens, sizes['D'], sizes['E']);
  if (refusal != nullptr) throw ops::OpError(refusal);
  return {static_cast<uint32_t>(tokens), static_cast<uint32_t>(sizes['D']), static_cast<uint32_t>(sizes['E'])};
}

void compute_gates(const Call& call) {
  using ops::gates::Input;
  const cuda::GateShape shape = gate_shape_of(call);
  check_cuda(cuda::compute_gates(call.data<float>(Input::kX), call.data<float>(Input::kRouter), shape.tokens,
                                 shape.hidden, shape.experts, call.output<float>(ops::gates::Output::kGates),
                                 stream_of(call)));
}

void compute_gates_on_host(const Call& call) {
  using ops::gates::Input;
  cuda::compute_gates_on_host(gate_shape_of(call), call.data<float>(Input::kX), call.data<float>(Input::kRouter),
                              call.output<float>(ops::gates::Output::kGates), call.runner());
}

void compute_route(const Call& call) {
  using ops::route::Input;
  using ops::route::Output;
  const RoutingShape& shape = routing_of(call);
  auto* slot = call.output<int32_t>(Output::kSlot);
  auto* weight = call.output<float>(Output::kWeight);
  auto* src = call.output<int32_t>(Output::kSrc);
  auto* expert = call.output<int32_t>(Output::kExpert);
  cudaStream_t const stream = stream_of(call);
  const Scratch scratch(call, stream, cuda::route_workspace_bytes(shape));
  check_cuda(cuda::route(shape, call.data<float>(Input::kGates), slot, weight, src, expert, scratch.data(), stream));
}

// A src that is no token can't be told here without waiting for the GPU; its row is zeros.
void compute_dispatch(const Call& call) {
  using ops::dispatch::Input;
  const ops::Sizes& sizes = call.sizes();
  const Tensor& x = call.input(Input::kX);
  check_cuda(cuda::dispatch(x.data, sizes['G'] * sizes['S'], call.data<int32_t>(Input::kSrc), sizes['E'] * sizes['M'],
                            sizes['D'] * bytes_of(x.type), call.output<void>(ops::dispatch::Output::kBuf),
                            stream_of(call)));
}

void compute_route_dispatch(const Call& call) {
  using ops::route_dispatch::Input;
  using ops::route_dispatch::Output;
  const RoutingShape& shape = routing_of(call);
  const Tensor& x = call.input(Input::kX);
  auto* slot = call.output<int32_t>(Output::kSlot);
  auto* weight = call.output<float>(Output::kWeight);
  auto* buf = call.output<void>(Output::kBuf);
  cudaStream_t const stream = stream_of(call);
  const Scratch scratch(call, stream, cuda::route_dispatch_workspace_bytes(shape));
  check_cuda(cuda::route_dispatch(shape, call.data<float>(Input::kGates), x.data, call.sizes()['D'] * bytes_of(x.type),
                                  slot, weight, buf, scratch.data(), stream));
}

// Slots can't be checked here without waiting for the GPU; those past the last one add nothing.
void compute_combine(const Call& call) {
  using ops::combine::Input;
  const ops::Sizes& sizes = call.sizes();
  const Tensor& out = call.input(Input::kOut);
  check_cuda(cuda::combine(out.type, out.data, sizes['E'] * sizes['M'], call.data<int32_t>(Input::kSlot),
                           call.data<float>(Input::kWeight), sizes['G'] * sizes['S'], sizes['K'], sizes['D'],
                           call.output<void>(ops::combine::Output::kY), stream_of(call)));
}

}  // namespace

void add_cuda_ops(OpList& list, const char* provider) {
  add_op(list, {ops::kGates, without_state<compute_gates>}, provider);
  add_op(list, {ops::kRoute, without_state<compute_route>}, provider);
  add_op(list, {ops::kDispatch, without_state<compute_dispatch>}, provider);
  add_op(list, {ops::kRouteDispatch, without_state<compute_route_dispatch>}, provider);
  add_op(list, {ops::kCombine, without_state<compute_combine>}, provider);
}

void add_gates_on_host(OpList& list) { add_op(list, {ops::kGates, without_state<compute_gates_on_host>}); }

}  // namespace vmoe::ort
