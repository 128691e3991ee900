// The weights of a node's layers: packed at load where they are constant, else at each call.
#pragma once

#include <cstddef>
#include <memory>

#include "core/kernels.h"
#include "core/layer_weights.h"
#include "core/packed_weights.h"
#include "onnxruntime/kernel_info.h"

namespace vmoe::ort {

// The kernels of this process's CPU path. Throws OpError if VMOE_CPU_PATH names one that isn't there.
const Kernels& process_kernels();

// Input w of a node, [depth, columns] or [matrices, depth, columns], the bias that follows it, and w's scales.
class NodeLinear {
 public:
  // `input` is the index of w; for depth_chunk see StoredWeights. Where w is known at load it is packed, and its mapped
  // pages are given back to the system: nothing reads the original again.
  NodeLinear(const NodeInfo& node, size_t input, size_t depth_chunk = 0);

  // The weights of one call; valid as long as the call.
  LinearWeights read(const Call& call) const;

  // w alone, for inputs without a bias.
  std::shared_ptr<const PackedWeights> packed(const Call& call) const;

 private:
  const Kernels& kernels_;
  size_t input_;
  size_t depth_chunk_;
  std::shared_ptr<const PackedWeights> constant_;
};

// Inputs w1, b1, w2, b2 of a node, in this order: an MLP, or those of all experts.
class NodeMlp {
 public:
  // `input` is the index of w1; Attribute has those of the op. Throws OpError for a hidden_chunk that kernels don't
  // have.
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

// Two inputs that come together, a matrix or scale and its bias. Throws OpError if only one is given.
bool is_pair_given(const Call& call, size_t first);

// A norm whose scale is an input, followed by its bias; none where both are left out.
LayerNorm read_norm(const Call& call, size_t scale);

}  // namespace vmoe::ort
