// What each op puts on a stream. Gates: x, router -> gates. Route: gates -> slot, weight, src. Dispatch: x, src -> buf.
// RouteDispatch: gates, x -> slot, weight, buf. Combine: out, slot, weight -> y.
#include "tensorrt/op.h"

namespace vmoe::tensorrt {
namespace {

cudaError_t compute_gates(const Call& call) {
  using ops::gates::Input;
  const ops::Sizes& sizes = call.sizes;
  return cuda::compute_gates(call.data<float>(Input::kX), call.data<float>(Input::kRouter), sizes['G'] * sizes['S'],
                             sizes['D'], sizes['E'], call.output<float>(ops::gates::Output::kGates), call.stream);
}

cudaError_t route(const Call& call) {
  using ops::route::Input;
  using ops::route::Output;
  return cuda::route(call.routing, call.data<float>(Input::kGates), call.output<int32_t>(Output::kSlot),
                     call.output<float>(Output::kWeight), call.output<int32_t>(Output::kSrc), nullptr, call.workspace,
                     call.stream);
}

cudaError_t dispatch(const Call& call) {
  using ops::dispatch::Input;
  const ops::Sizes& sizes = call.sizes;
  return cuda::dispatch(call.data<void>(Input::kX), sizes['G'] * sizes['S'], call.data<int32_t>(Input::kSrc),
                        sizes['E'] * sizes['M'], call.row_bytes(Input::kX),
                        call.output<void>(ops::dispatch::Output::kBuf), call.stream);
}

cudaError_t route_dispatch(const Call& call) {
  using ops::route_dispatch::Input;
  using ops::route_dispatch::Output;
  return cuda::route_dispatch(call.routing, call.data<float>(Input::kGates), call.data<void>(Input::kX),
                              call.row_bytes(Input::kX), call.output<int32_t>(Output::kSlot),
                              call.output<float>(Output::kWeight), call.output<void>(Output::kBuf), call.workspace,
                              call.stream);
}

cudaError_t combine(const Call& call) {
  using ops::combine::Input;
  const ops::Sizes& sizes = call.sizes;
  return cuda::combine(call.type(Input::kOut), call.data<void>(Input::kOut), sizes['E'] * sizes['M'],
                       call.data<int32_t>(Input::kSlot), call.data<float>(Input::kWeight), sizes['G'] * sizes['S'],
                       sizes['K'], sizes['D'], call.output<void>(ops::combine::Output::kY), call.stream);
}

}  // namespace

constexpr std::array<Op, 5> kOps{{
    {ops::kGates, nullptr, compute_gates},
    {ops::kRoute, cuda::route_workspace_bytes, route},
    {ops::kDispatch, nullptr, dispatch},
    {ops::kRouteDispatch, cuda::route_dispatch_workspace_bytes, route_dispatch},
    {ops::kCombine, nullptr, combine},
}};

}  // namespace vmoe::tensorrt
