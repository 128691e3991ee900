// One weight matrix of a node: packed at load where it is constant, else at each call.
#pragma once

#include <cstddef>
#include <memory>

#include "core/packed_weights.h"
#include "onnxruntime/kernel_info.h"

namespace vmoe::ort {

class NodeMatrix {
 public:
  // Input `index`, [depth, columns] or [matrices, depth, columns]. Where it is known at load it is packed, and its
  // mapped pages are given back to the system: nothing reads the original again.
  NodeMatrix(const NodeInfo& node, size_t index);

  // The matrix of one call.
  std::shared_ptr<const PackedWeights> Packed(const Call& call) const;

 private:
  const Kernels& kernels_;
  size_t index_;
  std::shared_ptr<const PackedWeights> constant_;
};

}  // namespace vmoe::ort
