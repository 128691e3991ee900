#include "onnxruntime/cuda_ops.h"

#include <string>

#include "cuda/ops.h"
#include "onnxruntime/cuda_call.h"

namespace vmoe::ort {
namespace {

// The routing of one call, which the GPU's kernels can do.
const RoutingShape& RoutingOf(const Call& call) {
  const char* refusal = cuda::RoutingRefusal(call.routing());
  if (refusal != nullptr) throw ops::OpError(std::string(refusal) + "; run it on the CPU");
  return call.routing();
}

class CudaRouteKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kRoute;

  explicit CudaRouteKernel(const NodeInfo&) {}

  void Compute(const Call& call) const {
    using ops::route::Input;
    using ops::route::Output;
    const RoutingShape& shape = RoutingOf(call);
    const Tensor& gates = call.Input(Input::kGates);
    auto* slot = call.Output<int32_t>(Output::kSlot);
    auto* weight = call.Output<void>(Output::kWeight);
    auto* src = call.Output<int32_t>(Output::kSrc);
    auto* expert = call.Output<int32_t>(Output::kExpert);
    cudaStream_t const stream = StreamOf(call);
    const Scratch scratch(call, stream, cuda::RouteWorkspaceBytes(shape));
    CheckCuda(cuda::Route(shape, gates.type, gates.data, slot, weight, src, expert, scratch.data(), stream));
  }
};

class CudaDispatchKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kDispatch;

  explicit CudaDispatchKernel(const NodeInfo&) {}

  // A src that is no token can't be told here without waiting for the GPU; its row is zeros.
  void Compute(const Call& call) const {
    using ops::dispatch::Input;
    using ops::dispatch::Output;
    const ops::Sizes& sizes = call.sizes();
    const Tensor& x = call.Input(Input::kX);
    CheckCuda(cuda::Dispatch(x.data, sizes['G'] * sizes['S'], call.Data<int32_t>(Input::kSrc), sizes['E'] * sizes['M'],
                             sizes['D'] * BytesOf(x.type), call.Output<void>(Output::kBuf), StreamOf(call)));
  }
};

class CudaRouteDispatchKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kRouteDispatch;

  explicit CudaRouteDispatchKernel(const NodeInfo&) {}

  void Compute(const Call& call) const {
    using ops::route_dispatch::Input;
    using ops::route_dispatch::Output;
    const RoutingShape& shape = RoutingOf(call);
    const Tensor& gates = call.Input(Input::kGates);
    const Tensor& x = call.Input(Input::kX);
    auto* slot = call.Output<int32_t>(Output::kSlot);
    auto* weight = call.Output<void>(Output::kWeight);
    auto* buf = call.Output<void>(Output::kBuf);
    cudaStream_t const stream = StreamOf(call);
    const Scratch scratch(call, stream, cuda::RouteDispatchWorkspaceBytes(shape));
    CheckCuda(cuda::RouteDispatch(shape, gates.type, gates.data, x.data, call.sizes()['D'] * BytesOf(x.type), slot,
                                  weight, buf, scratch.data(), stream));
  }
};

class CudaCombineKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kCombine;

  explicit CudaCombineKernel(const NodeInfo&) {}

  // Slots can't be checked here without waiting for the GPU; those past the last place add nothing.
  void Compute(const Call& call) const {
    using ops::combine::Input;
    using ops::combine::Output;
    const ops::Sizes& sizes = call.sizes();
    const Tensor& out = call.Input(Input::kOut);
    const Tensor& weight = call.Input(Input::kWeight);
    CheckCuda(cuda::Combine(out.type, out.data, sizes['E'] * sizes['M'], call.Data<int32_t>(Input::kSlot), weight.type,
                            weight.data, sizes['G'] * sizes['S'], sizes['K'], sizes['D'], call.Output<void>(Output::kY),
                            StreamOf(call)));
  }
};

}  // namespace

void AddCudaOps(OpList& list, const char* provider) {
  AddOps<CudaRouteKernel>(list, provider);
  AddOps<CudaDispatchKernel>(list, provider);
  AddOps<CudaRouteDispatchKernel>(list, provider);
  AddOps<CudaCombineKernel>(list, provider);
}

}  // namespace vmoe::ort
