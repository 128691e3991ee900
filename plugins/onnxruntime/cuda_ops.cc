#include "onnxruntime/cuda_ops.h"

#include <string>

#include "cuda/ops.h"
#include "onnxruntime/cuda_call.h"

namespace vmoe::ort {
namespace {

// The routing of one call, which the GPU's kernels can do.
const RoutingShape& routing_of(const Call& call) {
  const char* refusal = cuda::routing_refusal(call.routing());
  if (refusal != nullptr) throw ops::OpError(std::string(refusal) + "; run it on the CPU");
  return call.routing();
}

class CudaGatesKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kGates;

  explicit CudaGatesKernel(const NodeInfo&) {}

  void compute(const Call& call) const {
    using ops::gates::Input;
    using ops::gates::Output;
    const cuda::GateShape shape = gate_shape_of(call);
    check_cuda(cuda::compute_gates(call.data<float>(Input::kX), call.data<float>(Input::kRouter), shape.tokens,
                                   shape.hidden, shape.experts, call.output<float>(Output::kGates), stream_of(call)));
  }
};

class CudaRouteKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kRoute;

  explicit CudaRouteKernel(const NodeInfo&) {}

  void compute(const Call& call) const {
    using ops::route::Input;
    using ops::route::Output;
    const RoutingShape& shape = routing_of(call);
    const Tensor& gates = call.input(Input::kGates);
    auto* slot = call.output<int32_t>(Output::kSlot);
    auto* weight = call.output<void>(Output::kWeight);
    auto* src = call.output<int32_t>(Output::kSrc);
    auto* expert = call.output<int32_t>(Output::kExpert);
    cudaStream_t const stream = stream_of(call);
    const Scratch scratch(call, stream, cuda::route_workspace_bytes(shape));
    check_cuda(cuda::route(shape, gates.type, gates.data, slot, weight, src, expert, scratch.data(), stream));
  }
};

class CudaDispatchKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kDispatch;

  explicit CudaDispatchKernel(const NodeInfo&) {}

  // A src that is no token can't be told here without waiting for the GPU; its row is zeros.
  void compute(const Call& call) const {
    using ops::dispatch::Input;
    using ops::dispatch::Output;
    const ops::Sizes& sizes = call.sizes();
    const Tensor& x = call.input(Input::kX);
    check_cuda(cuda::dispatch(x.data, sizes['G'] * sizes['S'], call.data<int32_t>(Input::kSrc), sizes['E'] * sizes['M'],
                              sizes['D'] * bytes_of(x.type), call.output<void>(Output::kBuf), stream_of(call)));
  }
};

class CudaRouteDispatchKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kRouteDispatch;

  explicit CudaRouteDispatchKernel(const NodeInfo&) {}

  void compute(const Call& call) const {
    using ops::route_dispatch::Input;
    using ops::route_dispatch::Output;
    const RoutingShape& shape = routing_of(call);
    const Tensor& gates = call.input(Input::kGates);
    const Tensor& x = call.input(Input::kX);
    auto* slot = call.output<int32_t>(Output::kSlot);
    auto* weight = call.output<void>(Output::kWeight);
    auto* buf = call.output<void>(Output::kBuf);
    cudaStream_t const stream = stream_of(call);
    const Scratch scratch(call, stream, cuda::route_dispatch_workspace_bytes(shape));
    check_cuda(cuda::route_dispatch(shape, gates.type, gates.data, x.data, call.sizes()['D'] * bytes_of(x.type), slot,
                                    weight, buf, scratch.data(), stream));
  }
};

class CudaCombineKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kCombine;

  explicit CudaCombineKernel(const NodeInfo&) {}

  // Slots can't be checked here without waiting for the GPU; those past the last place add nothing.
  void compute(const Call& call) const {
    using ops::combine::Input;
    using ops::combine::Output;
    const ops::Sizes& sizes = call.sizes();
    const Tensor& out = call.input(Input::kOut);
    const Tensor& weight = call.input(Input::kWeight);
    check_cuda(cuda::combine(out.type, out.data, sizes['E'] * sizes['M'], call.data<int32_t>(Input::kSlot), weight.type,
                             weight.data, sizes['G'] * sizes['S'], sizes['K'], sizes['D'],
                             call.output<void>(Output::kY), stream_of(call)));
  }
};

}  // namespace

cuda::GateShape gate_shape_of(const Call& call) {
  const ops::Sizes& sizes = call.sizes();
  const size_t tokens = sizes['G'] * sizes['S'];
  const char* refusal = cuda::gates_refusal(tokens, sizes['D'], sizes['E']);
  if (refusal != nullptr) throw ops::OpError(refusal);
  return {static_cast<uint32_t>(tokens), static_cast<uint32_t>(sizes['D']), static_cast<uint32_t>(sizes['E'])};
}

void add_cuda_ops(OpList& list, const char* provider) {
  add_ops<CudaGatesKernel>(list, provider);
  add_ops<CudaRouteKernel>(list, provider);
  add_ops<CudaDispatchKernel>(list, provider);
  add_ops<CudaRouteDispatchKernel>(list, provider);
  add_ops<CudaCombineKernel>(list, provider);
}

}  // namespace vmoe::ort
