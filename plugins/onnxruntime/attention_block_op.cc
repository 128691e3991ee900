// VmoeAttentionBlock: x -> y = x + out(attention(query(n), key(n), value(n))), n = norm(x).
#include "core/attention_block.h"
#include "onnxruntime/node_matrix.h"
#include "onnxruntime/op.h"

namespace vmoe::ort {
namespace {

using ops::attention_block::Attribute;
using ops::attention_block::Input;
using ops::attention_block::Output;

class AttentionBlockKernel {
 public:
  static constexpr const ops::OpSpec& kSpec = ops::kAttentionBlock;
  static constexpr bool kInPlace = true;

  explicit AttentionBlockKernel(const NodeInfo& node)
      : heads_(static_cast<size_t>(node.attribute(Attribute::kNumHeads))),
        query_(node, Input::kWq, {heads_, 1, 0}),
        key_(node, Input::kWk, {heads_, 1, 0}),
        value_(node, Input::kWv, {heads_, 1, 0}),
        out_(node, Input::kWo, {1, heads_, 0}) {}

  void compute(const Call& call) const {
    const ops::Sizes& sizes = call.sizes();
    const auto query = query_.packed(call), key = key_.packed(call), value = value_.packed(call),
               out = out_.packed(call);
    const auto with = [&](const PackedWeights* matrix, size_t input) {
      return LinearWeights{matrix, call.data<float>(input + 1), call.scales(input)};
    };
    AttentionBlockWeights weights;
    weights.query = with(query.get(), Input::kWq);
    weights.key = with(key.get(), Input::kWk);
    weights.value = with(value.get(), Input::kWv);
    weights.out = with(out.get(), Input::kWo);
    weights.norm = {call.data<float>(Input::kLnScale), call.data<float>(Input::kLnBias)};
    weights.heads = heads_;
    compute_attention_block(weights, sizes['N'], sizes['T'], call.data<float>(Input::kX),
                            call.output<float>(Output::kY), call.runner());
  }

 private:
  size_t heads_;
  NodeMatrix query_, key_, value_, out_;
};

}  // namespace

void add_attention_block(OpList& list) { add_ops<AttentionBlockKernel>(list); }

}  // namespace vmoe::ort
