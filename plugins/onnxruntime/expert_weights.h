// The weights of a node's MLPs: experts', or those of a dense layer.
#pragma once

#include <cstddef>

#include "core/expert_mlp.h"
#include "onnxruntime/kernel_info.h"
#include "onnxruntime/node_matrix.h"

namespace vmoe::ort {

// Inputs w1, b1, w2, b2 of a node, in this order.
class NodeExpertWeights {
 public:
  // `first_input` is the index of w1; `hidden_chunk` the attribute of that name. Throws OpError for one that kernels
  // don't have.
  NodeExpertWeights(const NodeInfo& node, size_t first_input, int64_t hidden_chunk);

  // The weights of one call; valid as long as the call and this object.
  ExpertWeights read(const Call& call) const;

 private:
  size_t first_input_;
  size_t hidden_chunk_;
  NodeMatrix w1_, w2_;
};

}  // namespace vmoe::ort
