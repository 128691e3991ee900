// The experts' weights of a node.
#pragma once

#include <optional>

#include "core/expert_mlp.h"
#include "onnxruntime/kernel_info.h"
#include "onnxruntime/node_matrix.h"

namespace vmoe::ort {

// Inputs w1, b1, w2, b2 of a node, in this order.
class NodeExpertWeights {
 public:
  // `first_input` is the index of w1. Throws OpError for constant weights whose shapes or types contradict each other.
  NodeExpertWeights(const NodeInfo& node, const OpSpec& spec, size_t first_input);

  // The weights of one call; valid as long as the call and this object. Adds their shapes to `sizes`.
  ExpertWeights Read(const Call& call, Sizes& sizes) const;

 private:
  // What is known at load, checked before any of it is packed.
  struct Constants {
    Constants(const NodeInfo& node, const OpSpec& spec, size_t first_input);
    std::optional<Tensor> w1, w2;
  };
  NodeExpertWeights(const Constants& constants, size_t first_input);

  size_t first_input_;
  NodeMatrix w1_, w2_;
};

}  // namespace vmoe::ort
