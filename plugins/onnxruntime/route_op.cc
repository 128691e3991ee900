// VmoeRoute: gates -> slot, weight, src, expert.
#include "core/routing.h"
#include "onnxruntime/op.h"

namespace vmoe::ort {
namespace {

using ops::route::Input;
using ops::route::Output;

class RouteKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kRoute;

  explicit RouteKernel(const NodeInfo&) {}

  void compute(const Call& call) const {
    const Tensor& gates = call.input(Input::kGates);
    route(
        call.routing(), gates.type, gates.data, call.output<int32_t>(Output::kSlot), call.output<void>(Output::kWeight),
        [&](size_t places) { return call.sources(Output::kSrc, places); }, call.output<int32_t>(Output::kExpert),
        call.runner());
  }
};

}  // namespace

void add_route(OpList& list) { add_ops<RouteKernel>(list); }

}  // namespace vmoe::ort
