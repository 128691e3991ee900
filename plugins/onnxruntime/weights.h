// The weights of a node's layers. Constant weights are packed when the model is loaded. Other weights are packed in
// each call.
#pragma once

#include <cstddef>
#include <memory>

#include "core/kernels.h"
#include "core/layer_weights.h"
#include "core/packed_weights.h"
#include "onnxruntime/kernel_info.h"

namespace vmoe::ort {

// Returns the kernels of this process's CPU path. Throws OpError if VMOE_CPU_PATH names an unavailable path.
const Kernels& process_kernels();

// A linear layer of a node. Its inputs are the weights w, the bias and the scales of w. The shape of w is [depth,
// columns] or [matrices, depth, columns]. The bias is the input after w.
class NodeLinear {
 public:
  // `input` is the index of w. For `depth_chunk`, see StoredWeights. If w is constant, this constructor packs it. It
  // then gives the mapped pages of w back to the system, because nothing reads the original again.
  NodeLinear(const NodeInfo& node, size_t input, size_t depth_chunk = 0);

  // Returns the weights and the bias for one call. They are valid only during the call.
  LinearWeights read(const Call& call) const;

  // Returns w without a bias. This function is for layers that have no bias.
  std::shared_ptr<const PackedWeights> packed(const Call& call) const;

 private:
  const Kernels& kernels_;
  size_t input_;
  size_t depth_chunk_;
  std::shared_ptr<const PackedWeights> constant_;
};

// An MLP, or the MLPs of all experts. Its inputs are w1, b1, w2 and b2 of a node, in this order.
class NodeMlp {
 public:
  // `input` is the index of w1. `Attribute` lists the attributes of the op. Throws OpError if the kernels don't support
  // the node's hidden_chunk.
  template <class Attribute>
  NodeMlp(const NodeInfo& node, size_t input, Attribute)
      : NodeMlp(node, input, node.attribute(Attribute::kHiddenChunk),
                static_cast<Activation>(node.attribute(Attribute::kActivation))) {}

  MlpWeights read(const Call& call) const {
    return {first_.read(call), second_.read(call), hidden_chunk_, activation_};
  }

 private:
  NodeMlp(const NodeInfo& node, size_t input, int64_t hidden_chunk, Activation activation);

  size_t hidden_chunk_;
  Activation activation_;
  NodeLinear first_, second_;
};

// Returns whether a pair of inputs, such as a scale and its bias, is present. The pair consists of input `first` and
// the next input. Throws OpError if only one of them is present.
bool is_pair_given(const Call& call, size_t first);

// Returns the norm whose scale is input `scale` and whose bias is the next input. Returns an empty norm if both inputs
// are omitted.
LayerNorm read_norm(const Call& call, size_t scale);

}  // namespace vmoe::ort
