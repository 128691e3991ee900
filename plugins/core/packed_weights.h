// Weight matrices in the order that the kernels read them, packed once and shared by everyone who brings the same ones.
#pragma once

#include <cstddef>
#include <memory>

#include "core/kernels.h"
#include "core/workspace.h"

namespace vmoe {

// Weights as they are stored: `matrices` matrices of [depth, columns], row-major, one after another.
struct StoredWeights {
  const void* data = nullptr;
  bool bf16 = false;  // bfloat16, else float32
  size_t matrices = 0;
  size_t depth = 0;
  size_t columns = 0;

  size_t elements() const { return matrices * depth * columns; }
  size_t bytes() const { return elements() * (bf16 ? sizeof(Bf16) : sizeof(float)); }
};

// Immutable; any number of threads may read it.
class PackedWeights {
 public:
  // Throws std::bad_alloc.
  PackedWeights(const Kernels& kernels, const StoredWeights& weights);

  // The packed form of these weights. If the process holds one already, bit for bit the same, that one.
  // Throws std::bad_alloc.
  static std::shared_ptr<const PackedWeights> Shared(const Kernels& kernels, const StoredWeights& weights);

  const Kernels& kernels() const { return kernels_; }
  bool bf16() const { return bf16_; }
  size_t matrices() const { return matrices_; }
  size_t depth() const { return depth_; }
  size_t columns() const { return columns_; }
  size_t bytes() const { return buffer_.bytes(); }

  // Column panels of each matrix.
  size_t panels() const { return panels_; }
  size_t PanelColumns(size_t panel) const;
  size_t PanelBytes(size_t panel) const;
  const void* Panel(size_t matrix, size_t panel) const;

  bool Holds(const StoredWeights& weights) const;

 private:
  const Kernels& kernels_;
  bool bf16_;
  size_t matrices_, depth_, columns_, panels_;
  size_t element_bytes_;
  size_t panel_bytes_;
  size_t matrix_bytes_ = 0;
  PageBuffer buffer_;
};

}  // namespace vmoe
