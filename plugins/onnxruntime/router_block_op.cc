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

  void compute(const Call& call) const {
    compute_router_block(
        *router_.packed(call), {call.data<float>(Input::kLnScale), call.data<float>(Input::kLnBias)}, call.routing(),
        call.data<float>(Input::kX), call.output<int32_t>(Output::kSlot), call.output<float>(Output::kWeight),
        [&](size_t places) { return call.sources(Output::kSrc, places); }, call.output<int32_t>(Output::kExpert),
        call.runner());
  }

 private:
  NodeMatrix router_;
};

}  // namespace

void add_router_block(OpList& list) { add_ops<RouterBlockKernel>(list); }

}  // namespace vmoe::ort
