#include "cuda/op_calls.h"

#include "cuda/ops.h"

namespace vmoe::cuda {

cudaError_t put_gates(const OpCall& call) {
  using Input = ops::GatesInput;
  const ops::Sizes& sizes = call.sizes;
  return compute_gates(call.data<float>(Input::kX), call.data<float>(Input::kRouter), sizes['G'] * sizes['S'],
                       sizes['D'], sizes['E'], call.output<float>(ops::GatesOutput::kGates), call.stream);
}

cudaError_t put_route(const OpCall& call) {
  using Output = ops::RouteOutput;
  return route(call.routing, call.data<float>(ops::RouteInput::kGates), call.output<int32_t>(Output::kSlot),
               call.output<float>(Output::kWeight), call.output<int32_t>(Output::kSrc),
               call.output<int32_t>(Output::kExpert), call.workspace, call.stream);
}

cudaError_t put_dispatch(const OpCall& call) {
  using Input = ops::DispatchInput;
  const ops::Sizes& sizes = call.sizes;
  return dispatch(call.data<void>(Input::kX), sizes['G'] * sizes['S'], call.data<int32_t>(Input::kSrc),
                  sizes['E'] * sizes['M'], call.row_bytes(), call.output<void>(ops::DispatchOutput::kBuf), call.stream);
}

cudaError_t put_route_dispatch(const OpCall& call) {
  using Input = ops::RouteDispatchInput;
  using Output = ops::RouteDispatchOutput;
  return route_dispatch(call.routing, call.data<float>(Input::kGates), call.data<void>(Input::kX), call.row_bytes(),
                        call.output<int32_t>(Output::kSlot), call.output<float>(Output::kWeight),
                        call.output<void>(Output::kBuf), call.workspace, call.stream);
}

cudaError_t put_combine(const OpCall& call) {
  using Input = ops::CombineInput;
  const ops::Sizes& sizes = call.sizes;
  return combine(call.tokens, call.data<void>(Input::kOut), sizes['E'] * sizes['M'], call.data<int32_t>(Input::kSlot),
                 call.data<float>(Input::kWeight), sizes['G'] * sizes['S'], sizes['K'], sizes['D'],
                 call.output<void>(ops::CombineOutput::kY), call.stream);
}

}  // namespace vmoe::cuda
