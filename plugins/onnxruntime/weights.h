// The weights of a node's layers. Constant weights are packed when the model is loaded, other weights in each call.
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

// A linear layer of a node. Its inputs are the weights w, [depth, columns] or [matrices, depth, columns]; the bias,
// which is the input after w; and the scales of w.
class NodeLinear {
 public:
  // `input` is the index of w; for depth_chunk, see StoredWeights. If w is constant, it is packed here, and its mapped
  // pages are given back to the system, because nothing reads the original again.
  NodeLinear(const NodeInfo& node, size_t input, size_t depth_chunk = 0);

  // Returns the weights for one call, valid during the call.
  LinearWeights read(const Call& call) const;

  // Returns only w, for layers without a bias.
  std::shared_ptr<const PackedWeights> packed(const Call& call) const;

 private:
  const Kernels& kernels_;
  size_t input_;
  size_t depth_chunk_;
  std::shared_ptr<const PackedWeights> constant_;
};

// An MLP, or the MLPs of all experts: inputs w1, b1, w2, b2 of a node, in this order.
class NodeMlp {
 public:
  // `input` is the index of w1; Attribute lists the attributes of the op. Throws OpError if the kernels don't support
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

// Returns whether input `first` and the next input, which belong together, are present: for example, a scale and its
// bias. Throws OpError if only one of the two is present.
bool is_pair_given(const Call& call, size_t first);

// Returns the norm whose scale is input `scale` and whose bias is the next input; an empty norm if both are omitted.
LayerNorm read_norm(const Call& call, size_t scale);

}  // namespace vmoe::ort
