// The experts' weights of a node.
#pragma once

#include <cstddef>

#include "core/expert_mlp.h"
#include "onnxruntime/kernel_info.h"
#include "onnxruntime/node_matrix.h"

namespace vmoe::ort {

// Inputs w1, b1, w2, b2 of a node, in this order.
class NodeExpertWeights {
 public:
  // `first_input` is the index of w1.
  NodeExpertWeights(const NodeInfo& node, size_t first_input);

  // The weights of one call; valid as long as the call and this object.
  ExpertWeights Read(const Call& call) const;

 private:
  size_t first_input_;
  NodeMatrix w1_, w2_;
};

}  // namespace vmoe::ort
