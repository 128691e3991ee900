// Weight matrices in the order in which the kernels read them. Each matrix is packed only once. Equal matrices share
// one packed copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/element_type.h"
#include "core/kernels.h"
#include "core/tiles.h"
#include "core/weight_type.h"
#include "core/workspace.h"

namespace vmoe {

// Weights in the layout of a model file: `matrices` row-major matrices [depth, columns], one after another.
struct StoredWeights {
  const void* data = nullptr;
  ElementType type = ElementType::kFloat32;
  size_t matrices = 0;
  size_t depth = 0;
  size_t columns = 0;
  // For weights with one scale per column: how many elements of the depth are summed up before the sum is scaled. The
  // number is a multiple of 64, or 0 if the whole depth is summed up.
  size_t depth_chunk = 0;
  const void* scale = nullptr;  // only if groups have scales: float16[matrices, groups of the depth, columns]

  size_t elements() const { return matrices * depth * columns; }
  size_t bytes() const { return divide_up(elements() * weight_type(type).bits, 8); }
};

// Packed weights. They are immutable, so any number of threads may read them. float32 weights are in panels of
// Kernels::panel_columns columns. Weights of all other types are in panels of tiles (tiles.h).
class PackedWeights {
 public:
  // Throws std::bad_alloc.
  PackedWeights(const Kernels& kernels, const StoredWeights& weights);

  // Returns the packed form of `weights`. If the process already has a packed form of equal weights, returns that
  // existing object. Throws std::bad_alloc.
  static std::shared_ptr<const PackedWeights> share(const Kernels& kernels, const StoredWeights& weights);

  const Kernels& kernels() const { return kernels_; }
  ElementType type() const { return form_.type; }
  size_t matrices() const { return form_.matrices; }
  size_t depth() const { return form_.depth; }
  size_t columns() const { return form_.columns; }

  // The number of panels of each matrix, and the number of columns in these panels, including padding.
  size_t panels() const { return panels_; }
  size_t padded_columns() const { return panels_ * panel_columns_; }
  // The number of steps of the depth, for weights in tiles.
  size_t steps() const;

  size_t columns_of_panel(size_t panel) const;
  size_t bytes_of_panel(size_t panel) const;
  // Bytes from one panel of a matrix to the next.
  size_t panel_stride() const { return panel_bytes_; }
  const char* panel_at(size_t matrix, size_t panel) const;

  // Returns TileProduct::column_excess, i32[padded_columns], for the chunk of the depth that begins at `first_step`.
  // Returns null if columns have no scales, or if the path reads rows as signed bytes.
  const int32_t* column_excess(size_t matrix, size_t first_step) const;

 private:
  const Kernels& kernels_;
  StoredWeights form_;  // without the data
  size_t panel_columns_;
  size_t panels_;
  size_t panel_bytes_;
  size_t matrix_bytes_ = 0;
  PageBuffer buffer_;
  std::vector<int32_t> column_excess_;  // [matrices, chunks, padded_columns]

  size_t chunk_steps() const;
  size_t chunks() const;
  void pack_panel(const StoredWeights& weights, size_t matrix, size_t panel, char* to) const;
  bool holds(const StoredWeights& weights) const;
};

}  // namespace vmoe
