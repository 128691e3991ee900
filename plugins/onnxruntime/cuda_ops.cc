#include "onnxruntime/cuda_ops.h"

#include <string>

#include "cuda/ops.h"
#include "onnxruntime/cuda_call.h"
#include "onnxruntime/moe_specs.h"
#include "onnxruntime/routing_settings.h"

namespace vmoe::ort {
namespace {

// The routing of one call, which the GPU's kernels can do.
RoutingShape ReadRouting(const RoutingSettings& settings, const Call& call, size_t first_input, Sizes& sizes) {
  const RoutingShape shape = settings.Read(call, first_input, sizes);
  const char* refusal = cuda::RoutingRefusal(shape);
  if (refusal != nullptr) throw OpError(std::string(refusal) + "; run it on the CPU");
  return shape;
}

class CudaRouteKernel {
 public:
  static constexpr const OpSpec& kSpec = kRouteSpec;

  explicit CudaRouteKernel(const NodeInfo& node) : settings_(node) {}

  void Compute(const Call& call) const {
    Sizes sizes;
    const Tensor gates = call.Input(0, sizes);
    const RoutingShape shape = ReadRouting(settings_, call, 1, sizes);
    auto* slot = call.Output<int32_t>(0, sizes);
    auto* weight = call.Output<void>(1, sizes);
    auto* src = call.Output<int32_t>(2, sizes);
    cudaStream_t const stream = StreamOf(call);
    const Scratch scratch(call, stream, cuda::RouteWorkspaceBytes(shape));
    CheckCuda(cuda::Route(shape, gates.float_type(), gates.data, slot, weight, src, scratch.data(), stream));
  }

 private:
  RoutingSettings settings_;
};

class CudaDispatchKernel {
 public:
  static constexpr const OpSpec& kSpec = kDispatchSpec;

  explicit CudaDispatchKernel(const NodeInfo&) {}

  // A src that is no token can't be told here without waiting for the GPU; its row is zeros.
  void Compute(const Call& call) const {
    Sizes sizes;
    const Tensor x = call.Input(0, sizes);
    const Tensor src = call.Input(1, sizes);
    CheckCuda(cuda::Dispatch(x.data, sizes['G'] * sizes['S'], src.as<int32_t>(), sizes['E'] * sizes['M'],
                             sizes['D'] * BytesOf(x.float_type()), call.Output<void>(0, sizes), StreamOf(call)));
  }
};

class CudaRouteDispatchKernel {
 public:
  static constexpr const OpSpec& kSpec = kRouteDispatchSpec;

  explicit CudaRouteDispatchKernel(const NodeInfo& node) : settings_(node) {}

  void Compute(const Call& call) const {
    Sizes sizes;
    const Tensor gates = call.Input(0, sizes);
    const Tensor x = call.Input(1, sizes);
    const RoutingShape shape = ReadRouting(settings_, call, 2, sizes);
    auto* slot = call.Output<int32_t>(0, sizes);
    auto* weight = call.Output<void>(1, sizes);
    auto* buf = call.Output<void>(2, sizes);
    cudaStream_t const stream = StreamOf(call);
    const Scratch scratch(call, stream, cuda::RouteDispatchWorkspaceBytes(shape));
    CheckCuda(cuda::RouteDispatch(shape, gates.float_type(), gates.data, x.data, sizes['D'] * BytesOf(x.float_type()),
                                  slot, weight, buf, scratch.data(), stream));
  }

 private:
  RoutingSettings settings_;
};

class CudaCombineKernel {
 public:
  static constexpr const OpSpec& kSpec = kCombineSpec;

  explicit CudaCombineKernel(const NodeInfo&) {}

  // Slots can't be checked here without waiting for the GPU; those past the last place add nothing.
  void Compute(const Call& call) const {
    Sizes sizes;
    const Tensor out = call.Input(0, sizes);
    const Tensor slot = call.Input(1, sizes);
    const Tensor weight = call.Input(2, sizes);
    CheckCuda(cuda::Combine(out.float_type(), out.data, sizes['E'] * sizes['M'], slot.as<int32_t>(),
                            weight.float_type(), weight.data, sizes['G'] * sizes['S'], sizes['K'], sizes['D'],
                            call.Output<void>(0, sizes), StreamOf(call)));
  }
};

}  // namespace

void AddCudaOps(OpList& list, const char* provider) {
  AddOps<CudaRouteKernel>(list, kAnyGates, provider);
  AddOps<CudaDispatchKernel>(list, kAnyTokens, provider);
  AddOps<CudaRouteDispatchKernel>(list, kAnyGatesAndTokens, provider);
  AddOps<CudaCombineKernel>(list, kWeightsFloatOrAsTokens, provider);
}

}  // namespace vmoe::ort
