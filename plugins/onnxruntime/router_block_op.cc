// VmoeRouterBlock: x -> slot, weight, src, expert of softmax(norm(x) . router).
#include "core/router_block.h"
#include "onnxruntime/node_matrix.h"
#include "onnxruntime/op.h"

namespace vmoe::ort {
namespace {

using ops::router_block::Input;
using ops::router_block::Output;

class RouterBlockKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kRouterBlock;

  explicit RouterBlockKernel(const NodeInfo& node) : router_(node, Input::kRouter) {}

  void Compute(const Call& call) const {
    RouterBlock(
        *router_.Packed(call), {call.Data<float>(Input::kLnScale), call.Data<float>(Input::kLnBias)}, call.routing(),
        call.Data<float>(Input::kX), call.Output<int32_t>(Output::kSlot), call.Output<float>(Output::kWeight),
        [&](size_t places) { return call.Sources(Output::kSrc, places); }, call.Output<int32_t>(Output::kExpert),
        call.Runner());
  }

 private:
  NodeMatrix router_;
};

}  // namespace

void AddRouterBlock(OpList& list) { AddOps<RouterBlockKernel>(list); }

}  // namespace vmoe::ort
