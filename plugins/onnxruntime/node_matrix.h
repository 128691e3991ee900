// One weight matrix of a node: packed at load where it is constant, else at each call.
#pragma once

#include <memory>
#include <optional>

#include "core/packed_weights.h"
#include "onnxruntime/kernel_info.h"

namespace vmoe::ort {

class NodeMatrix {
 public:
  // `constant` is the matrix [depth, columns] or [matrices, depth, columns], if it is known at load. It is packed, and
  // its mapped pages are given back to the system: nothing reads the original again.
  explicit NodeMatrix(const std::optional<Tensor>& constant);

  // The matrix of one call, which gets `given` for it.
  std::shared_ptr<const PackedWeights> Packed(const Tensor& given) const;

 private:
  const Kernels& kernels_;
  std::shared_ptr<const PackedWeights> constant_;
};

// Input `index` of a node if it is constant, its shape added to `sizes`. Throws OpError for a shape or type that isn't
// the spec's.
std::optional<Tensor> CheckedConstant(const NodeInfo& node, const OpSpec& spec, size_t index, Sizes& sizes);

}  // namespace vmoe::ort
