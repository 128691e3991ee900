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

  void Compute(const Call& call) const {
    const Tensor& gates = call.Input(Input::kGates);
    Route(
        call.routing(), gates.type, gates.data, call.Output<int32_t>(Output::kSlot), call.Output<void>(Output::kWeight),
        [&](size_t places) { return call.Sources(Output::kSrc, places); }, call.Output<int32_t>(Output::kExpert),
        call.Runner());
  }
};

}  // namespace

void AddRoute(OpList& list) { AddOps<RouteKernel>(list); }

}  // namespace vmoe::ort
