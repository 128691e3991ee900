// Weight matrices in the order in which the kernels read them. They are packed once, and shared if the weights are
// equal.
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

// Weights as they are stored: `matrices` matrices of [depth, columns], row-major, one after another.
struct StoredWeights {
  const void* data = nullptr;
  ElementType type = ElementType::kFloat32;
  size_t matrices = 0;
  size_t depth = 0;
  size_t columns = 0;
  // With scales of columns: the elements of the depth that are summed up at once, a multiple of 64, or 0 for all.
  size_t depth_chunk = 0;
  const void* scale = nullptr;  // with scales of groups: float16[matrices, groups of the depth, columns]

  size_t elements() const { return matrices * depth * columns; }
  size_t bytes() const { return divide_up(elements() * weight_type(type).bits, 8); }
};

// Immutable; any number of threads may read it. float32 weights are in panels as wide as the path's blocks of sums, all
// others in panels of tiles (tiles.h).
class PackedWeights {
 public:
  // Throws std::bad_alloc.
  PackedWeights(const Kernels& kernels, const StoredWeights& weights);

  // The packed form of these weights: the same object as before if the process has one with the same bits. Throws
  // std::bad_alloc.
  static std::shared_ptr<const PackedWeights> share(const Kernels& kernels, const StoredWeights& weights);

  const Kernels& kernels() const { return kernels_; }
  ElementType type() const { return form_.type; }
  size_t matrices() const { return form_.matrices; }
  size_t depth() const { return form_.depth; }
  size_t columns() const { return form_.columns; }

  // Column panels of each matrix, and their columns.
  size_t panels() const { return panels_; }
  size_t padded_columns() const { return panels_ * panel_columns_; }
  // Steps of the depth, for weights in tiles.
  size_t steps() const;

  size_t columns_of_panel(size_t panel) const;
  size_t bytes_of_panel(size_t panel) const;
  // Bytes from one panel of a matrix to the next.
  size_t panel_stride() const { return panel_bytes_; }
  const char* panel_at(size_t matrix, size_t panel) const;

  // TileProduct::column_excess for the chunk of the depth that begins with a step, i32[padded_columns]. Null without
  // scales of columns, and on paths that read rows as signed.
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
