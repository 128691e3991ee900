// A weight matrix in tiles with what belongs to its columns, and the row groups that are multiplied with it.
#pragma once

#include <cstddef>
#include <vector>

#include "core/packed_weights.h"
#include "core/tile_kernels.h"
#include "core/workspace.h"

namespace vmoe {

// Weights in tiles, not owned. `bias` and, for int8, `scale` are f32[matrices, columns] as an op gets them.
struct TileMatrix {
  const PackedWeights* weights = nullptr;
  const float* bias = nullptr;
  const float* scale = nullptr;

  ElementType type() const { return weights->type(); }
  bool int8() const { return type() == ElementType::kInt8; }

  // The same with bias and scale as wide as whole panels; `memory` is a workspace or a WorkspaceBytes. With `first`
  // [matrices + 1], those of a matrix m without rows, first[m] to first[m + 1], are not read and are zero.
  template <class Memory>
  TileMatrix with_padding(Memory& memory, const size_t* first = nullptr) const {
    TileMatrix padded = *this;
    if (!needs_padding()) return padded;
    const size_t count = weights->matrices() * weights->padded_columns();
    auto* wide_bias = memory.template take<float>(count);
    auto* wide_scale = int8() ? memory.template take<float>(count) : nullptr;
    if (wide_bias != nullptr) {
      padded.bias = widened(bias, first, wide_bias);
      if (int8()) padded.scale = widened(scale, first, wide_scale);
    }
    return padded;
  }

  // Of a padded matrix: rows times some panels over the whole depth, or over some steps of it. Rows, offsets and what
  // becomes of the sums are the caller's to fill in.
  TileProduct make_product(size_t matrix, size_t first_panel, size_t panels) const {
    return make_product(matrix, first_panel, panels, 0, weights->steps());
  }
  TileProduct make_product(size_t matrix, size_t first_panel, size_t panels, size_t first_step, size_t steps) const;

 private:
  bool needs_padding() const { return weights->padded_columns() != weights->columns(); }
  const float* widened(const float* values, const size_t* first, float* wide) const;
};

// The row tiles `first_tile` to `end_tile` of what `rows` describes; scratch is taken here. Throws std::bad_alloc.
void pack_tiles(const TileKernels& kernels, TileRows rows, size_t first_tile, size_t end_tile);

// Some consecutive rows that one matrix is multiplied with.
struct RowGroup {
  size_t matrix = 0;
  size_t begin = 0;
  size_t end = 0;

  size_t count() const { return end - begin; }
};

// Cuts the rows first[m] to first[m + 1] of each matrix m into groups: few enough rows to stay in a core's cache, and
// enough groups for all threads where that leaves each with enough rows. The largest come first.
std::vector<RowGroup> group_rows(const size_t* first, size_t matrices);

// Most rows of a group.
size_t find_most_rows(const std::vector<RowGroup>& groups);

}  // namespace vmoe
