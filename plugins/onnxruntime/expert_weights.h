// The experts' weights of a node: packed at load where they are constant, else at each call.
#pragma once

#include <memory>

#include "core/expert_mlp.h"
#include "onnxruntime/kernel_info.h"

namespace vmoe::ort {

// Inputs w1, b1, w2, b2 of a node, in this order.
class NodeExpertWeights {
 public:
  // `first_input` is the index of w1. Throws OpError for constant weights whose shapes or types contradict each other.
  NodeExpertWeights(const NodeInfo& node, const OpSpec& spec, size_t first_input);

  // The weights of one call; valid as long as the call and this object. Adds their shapes to `sizes`.
  ExpertWeights Read(const Call& call, Sizes& sizes) const;

 private:
  const Kernels& kernels_;
  size_t first_input_;
  std::shared_ptr<const PackedWeights> w1_, w2_;  // where constant
};

// Packs a constant tensor [matrices, depth, columns], or [depth, columns], and gives its mapped pages back to the
// system: nothing reads the original again.
std::shared_ptr<const PackedWeights> PackConstant(const Kernels& kernels, const Tensor& tensor);

// Packs a tensor for one call.
std::shared_ptr<const PackedWeights> PackOnce(const Kernels& kernels, const Tensor& tensor);

}  // namespace vmoe::ort
