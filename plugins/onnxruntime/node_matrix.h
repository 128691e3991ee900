// One weight matrix of a node: packed at load where it is constant, else at each call.
#pragma once

#include <cstddef>
#include <memory>

#include "core/packed_weights.h"
#include "onnxruntime/kernel_info.h"

namespace vmoe::ort {

// How a matrix is cut up when it is packed; see StoredWeights.
struct MatrixParts {
  size_t columns = 1;
  size_t depth = 1;
  size_t chunk = 0;
};

class NodeMatrix {
 public:
  // Input `index`, [depth, columns] or [matrices, depth, columns]. Where it is known at load it is packed, and its
  // mapped pages are given back to the system: nothing reads the original again.
  NodeMatrix(const NodeInfo& node, size_t index, MatrixParts parts = {});

  // The matrix of one call.
  std::shared_ptr<const PackedWeights> packed(const Call& call) const;

 private:
  const Kernels& kernels_;
  size_t index_;
  MatrixParts parts_;
  std::shared_ptr<const PackedWeights> constant_;
};

}  // namespace vmoe::ort
