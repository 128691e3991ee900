// Layers without routing: linear layers, MLPs, attention, and the encoder blocks that consist of these layers.
#include <algorithm>
#include <optional>

#include "core/attention.h"
#include "core/linear.h"
#include "core/mlp.h"
#include "onnxruntime/op.h"
#include "onnxruntime/weights.h"

namespace vmoe::ort {
namespace {

Kernel make_linear(const NodeInfo& node) {
  using Input = ops::LinearInput;
  return [w = NodeLinear(node, Input::kW)](const Call& call) {
    compute_linear(w.read(call), call.data<float>(Input::kX), call.sizes()['N'] * call.sizes()['T'],
                   call.output<float>(ops::LinearOutput::kY), call.runner());
  };
}

// An MLP of a dense layer, with its optional gate and norm.
template <class Input, class Attribute>
class NodeDenseMlp {
 public:
  explicit NodeDenseMlp(const NodeInfo& node) : mlp_(node, Input::kW1, Attribute()), gate_(node, Input::kWg) {}

  MlpWeights read(const Call& call) const {
    MlpWeights weights = mlp_.read(call);
    if (is_pair_given(call, Input::kWg)) weights.gate = gate_.read(call);
    weights.hidden_norm = read_norm(call, Input::kHiddenLnScale);
    return weights;
  }

 private:
  NodeMlp mlp_;
  NodeLinear gate_;
};

Kernel make_dense_mlp(const NodeInfo& node) {
  using Input = ops::DenseMlpInput;
  return [mlp = NodeDenseMlp<Input, ops::DenseMlpAttribute>(node)](const Call& call) {
    compute_dense_mlp(mlp.read(call), {}, call.data<float>(Input::kX), call.sizes()['N'] * call.sizes()['T'], false,
                      call.output<float>(ops::DenseMlpOutput::kY), call.runner());
  };
}

Kernel make_mlp_block(const NodeInfo& node) {
  using Input = ops::MlpBlockInput;
  return [mlp = NodeDenseMlp<Input, ops::MlpBlockAttribute>(node)](const Call& call) {
    compute_dense_mlp(mlp.read(call), {call.data<float>(Input::kLnScale), call.data<float>(Input::kLnBias)},
                      call.data<float>(Input::kX), call.sizes()['N'] * call.sizes()['T'], true,
                      call.output<float>(ops::MlpBlockOutput::kY), call.runner());
  };
}

Kernel make_attention(const NodeInfo& node) {
  using Attribute = ops::AttentionAttribute;
  using Input = ops::AttentionInput;
  const auto heads = static_cast<size_t>(node.attribute(Attribute::kNumHeads));
  const bool bf16 = node.attribute(Attribute::kBf16) != 0;
  return [heads, bf16](const Call& call) {
    const ops::Sizes& sizes = call.sizes();
    if (sizes['T'] == 0) throw ops::OpError("there are no keys");
    const AttentionShape shape{sizes['N'], sizes['Q'], sizes['T'], sizes['D'], heads, call.data<float>(Input::kSizes)};
    const auto *q = call.data<float>(Input::kQ), *k = call.data<float>(Input::kK), *v = call.data<float>(Input::kV);
    auto* y = call.output<float>(ops::AttentionOutput::kY);
    if (bf16) return compute_tile_attention(process_kernels(), shape, q, k, v, y, call.runner());
    compute_attention(process_kernels(), shape, q, k, v, y, call.runner());
  };
}

// Reads the rotation that a call applies to its queries and keys, which have `heads` heads.
template <class Input>
Rotation read_rotation(const Call& call, size_t heads) {
  Rotation rotation{call.data<float>(Input::kCoordinates), call.data<float>(Input::kFrequencies), call.sizes()['C']};
  if (is_pair_given(call, Input::kCoordinates) && call.sizes()['A'] * 2 * heads != call.sizes()['D']) {
    throw ops::OpError("frequencies must have a number for each pair of a head's columns");
  }
  return rotation;
}

Kernel make_rotate(const NodeInfo& node) {
  using Input = ops::RotateInput;
  const auto heads = static_cast<size_t>(node.attribute(ops::RotateAttribute::kNumHeads));
  return [heads](const Call& call) {
    const size_t images = call.sizes()['N'], tokens = call.sizes()['T'], hidden = call.sizes()['D'];
    const Rotation rotation = read_rotation<Input>(call, heads);
    auto* y = call.output<float>(ops::RotateOutput::kY);
    std::copy_n(call.data<float>(Input::kX), images * tokens * hidden, y);
    Workspace memory;
    RotationTable(process_kernels(), rotation, images, tokens, hidden, heads, memory)
        .rotate(process_kernels(), y, images, tokens, hidden, call.runner());
  };
}

// Fills `merging` from the inputs and outputs of a call. Does nothing if the call has no merge setting. The caller
// must already have set merging.prefix. Two sizes of the call must be known: T, the tokens per image before this
// merging, and O, the tokens per image before any merging.
template <class Input, class Output>
void fill_merging(const Call& call, Merging& merging) {
  const std::optional<int64_t> merge = call.setting(ops::Setting::kMerge);
  if (!merge) return;
  const size_t tokens = call.sizes()['T'];
  merging.sizes = call.data<float>(Input::kSizes);
  if (merging.sizes == nullptr || call.data<int32_t>(Input::kToken) == nullptr) {
    throw ops::OpError("merge is given, but sizes or token is not");
  }
  merging.token = call.indices(Input::kToken, tokens, "tokens");
  merging.all_tokens = call.sizes()['O'];
  merging.count = count_merged(tokens, *merge, merging.prefix);
  const size_t left = tokens - merging.count;
  merging.merged_sizes = call.output<float>(Output::kMergedSizes, 'U', left);
  merging.merged_token = call.output<int32_t>(Output::kMergedToken);
  merging.coordinates = call.data<float>(Input::kCoordinates);
  merging.coordinate_count = call.sizes()['C'];
  if (merging.coordinates != nullptr)
    merging.merged_coordinates = call.output<float>(Output::kMergedCoordinates, 'U', left);
  if (merging.count > 0) return;
  const size_t images = call.sizes()['N'];
  if (merging.merged_sizes != nullptr) std::copy_n(merging.sizes, images * tokens, merging.merged_sizes);
  if (merging.merged_token != nullptr) std::copy_n(merging.token, images * merging.all_tokens, merging.merged_token);
  if (merging.merged_coordinates != nullptr) {
    std::copy_n(merging.coordinates, images * tokens * merging.coordinate_count, merging.merged_coordinates);
  }
}

Kernel make_merge(const NodeInfo& node) {
  using Attribute = ops::MergeAttribute;
  using Input = ops::MergeInput;
  using Output = ops::MergeOutput;
  const auto heads = static_cast<size_t>(node.attribute(Attribute::kNumHeads));
  const auto prefix = static_cast<size_t>(node.attribute(Attribute::kPrefix));
  return [heads, prefix](const Call& call) {
    const ops::Sizes& sizes = call.sizes();
    Merging merging;
    merging.prefix = prefix;
    fill_merging<Input, Output>(call, merging);
    const auto* x = call.data<float>(Input::kX);
    auto* y = call.output<float>(Output::kY, 'U', sizes['T'] - merging.count);
    if (merging.count == 0) {
      std::copy_n(x, sizes['N'] * sizes['T'] * sizes['D'], y);
      return;
    }
    merge_tokens(process_kernels(), merging, 0, sizes['N'], sizes['T'], sizes['D'], heads, x,
                 call.data<float>(Input::kK), y, call.runner());
  };
}

// Creates the kernel of an attention block. If kClassToken is true, the kernel computes only the class token.
// Otherwise, it computes all tokens.
template <bool kClassToken>
Kernel make_attention_block(const NodeInfo& node) {
  using Attribute = ops::AttentionBlockAttribute;
  using Input = ops::AttentionBlockInput;
  using Output = ops::AttentionBlockOutput;
  const auto heads = static_cast<size_t>(node.attribute(Attribute::kNumHeads));
  size_t prefix = 0;
  if constexpr (!kClassToken) prefix = static_cast<size_t>(node.attribute(Attribute::kPrefix));
  return [heads, prefix, query = NodeLinear(node, Input::kWq), key = NodeLinear(node, Input::kWk),
          value = NodeLinear(node, Input::kWv), out = NodeLinear(node, Input::kWo)](const Call& call) {
    Merging merging;
    merging.prefix = prefix;
    if constexpr (kClassToken) {
      if (call.sizes()['T'] == 0) throw ops::OpError("there are no tokens");
      merging.sizes = call.data<float>(Input::kSizes);
    } else {
      fill_merging<Input, Output>(call, merging);
    }
    compute_attention_block({query.read(call),
                             key.read(call),
                             value.read(call),
                             out.read(call),
                             {call.data<float>(Input::kLnScale), call.data<float>(Input::kLnBias)},
                             heads,
                             read_rotation<Input>(call, heads),
                             read_norm(call, Input::kMixedLnScale)},
                            call.sizes()['N'], kClassToken ? 1 : call.sizes()['T'], call.sizes()['T'],
                            call.data<float>(Input::kX), merging,
                            call.output<float>(Output::kY, 'U', call.sizes()['T'] - merging.count), call.runner());
  };
}

}  // namespace

void add_dense_ops(OpList& list) {
  add_op(list, {ops::kLinear, make_linear});
  add_op(list, {ops::kDenseMlp, make_dense_mlp});
  add_op(list, {ops::kMlpBlock, make_mlp_block, true});
  add_op(list, {ops::kAttention, make_attention});
  add_op(list, {ops::kRotate, make_rotate});
  add_op(list, {ops::kAttentionBlock, make_attention_block<false>, true});
  add_op(list, {ops::kClassAttentionBlock, make_attention_block<true>});
  add_op(list, {ops::kMerge, make_merge});
}

}  // namespace vmoe::ort
