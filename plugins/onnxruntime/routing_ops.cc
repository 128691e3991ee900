// VmoeRoute, VmoeDispatch, VmoeRouteDispatch and VmoeCombine on the CPU. The op library for GPUs contains these CPU
// kernels too.
#include "core/dispatch.h"
#include "core/routing.h"
#include "onnxruntime/op.h"

namespace vmoe::ort {
namespace {

void compute_route(const Call& call) {
  using Input = ops::RouteInput;
  using Output = ops::RouteOutput;
  route(
      call.routing(), call.data<float>(Input::kGates), call.output<int32_t>(Output::kSlot),
      call.output<float>(Output::kWeight), [&](size_t slots) { return call.output<int32_t>(Output::kSrc, 'M', slots); },
      call.output<int32_t>(Output::kExpert), call.runner());
}

void compute_dispatch(const Call& call) {
  using Input = ops::DispatchInput;
  using Output = ops::DispatchOutput;
  const ops::Sizes& sizes = call.sizes();
  const Tensor& x = call.input(Input::kX);
  const int32_t* src = call.indices(Input::kSrc, sizes['G'] * sizes['S'], "tokens");
  dispatch(x.data, src, sizes['E'] * sizes['M'], sizes['D'] * bytes_of(x.type), call.output<void>(Output::kBuf),
           call.runner());
}

void compute_route_dispatch(const Call& call) {
  using Input = ops::RouteDispatchInput;
  using Output = ops::RouteDispatchOutput;
  const Tensor& x = call.input(Input::kX);
  route_dispatch(call.routing(), call.data<float>(Input::kGates), x.data, call.sizes()['D'] * bytes_of(x.type),
                 call.output<int32_t>(Output::kSlot), call.output<float>(Output::kWeight),
                 call.output<void>(Output::kBuf), call.runner());
}

void compute_combine(const Call& call) {
  using Input = ops::CombineInput;
  using Output = ops::CombineOutput;
  const ops::Sizes& sizes = call.sizes();
  const int32_t* slot = call.indices(Input::kSlot, sizes['E'] * sizes['M'], "slots");
  const Tensor& out = call.input(Input::kOut);
  combine(out.type, out.data, slot, call.data<float>(Input::kWeight), sizes['G'] * sizes['S'], sizes['K'], sizes['D'],
          call.output<void>(Output::kY), call.runner());
}

}  // namespace

void add_routing_ops(OpList& list) {
  add_op(list, {ops::kRoute, without_state<compute_route>});
  add_op(list, {ops::kDispatch, without_state<compute_dispatch>});
  add_op(list, {ops::kRouteDispatch, without_state<compute_route_dispatch>});
  add_op(list, {ops::kCombine, without_state<compute_combine>});
}

}  // namespace vmoe::ort
