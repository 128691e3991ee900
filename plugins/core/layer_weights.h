// The weights of layers, and the row groups that are multiplied with those in tiles.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "core/packed_weights.h"
#include "core/residual.h"
#include "core/workspace.h"

namespace vmoe {

// Activations of a product with weights in tiles, and the scale of each row where they are quantized; not owned.
struct PackedRows {
  char* tiles = nullptr;
  float* scale = nullptr;
};

// A weight matrix [1, D, P] or [E, D, P] packed, with what belongs to its columns as an op gets it (not owned): bias,
// and scale where columns have one, f32[P] or f32[E, P]. What enters a product is rounded to bfloat16 with bfloat16
// weights and quantized with those that have scales; sums and biases are float32.
struct LinearWeights {
  std::shared_ptr<const PackedWeights> matrix;
  const float* bias = nullptr;
  const float* scale = nullptr;

  ElementType type() const { return matrix->type(); }
  explicit operator bool() const { return matrix != nullptr; }
  bool in_tiles() const { return weight_type(type()).in_tiles(); }
  bool quantized() const { return weight_type(type()).quantized(); }
  bool has_column_scale() const { return weight_type(type()).scales == Scales::kColumns; }

  // The same with bias and scale as wide as whole panels, in `memory`. With `first` [matrices + 1], those of a matrix m
  // without rows, first[m] to first[m + 1], are not read and are zero.
  LinearWeights with_padding(Workspace& memory, const size_t* first = nullptr) const;

  // In tiles: bytes from one row tile of what it is multiplied with to the next.
  size_t row_tile_stride() const { return matrix->steps() * weight_type(type()).tile_step_bytes; }

  // In tiles: room for so many rows to be packed for a product.
  PackedRows take_rows(Workspace& memory, size_t count) const;

  // In tiles: f32[count, D] to be packed for a product.
  TileRows make_rows(const float* rows, size_t count, const PackedRows& packed) const;

  // With padding, in tiles: `count` rows times some panels over the whole depth, or over some steps of it. Offsets and
  // what becomes of the sums are the caller's to fill in.
  TileProduct make_product(const PackedRows& rows, size_t count, size_t index, size_t first_panel,
                           size_t panels) const {
    return make_product(rows, count, index, first_panel, panels, 0, matrix->steps());
  }
  TileProduct make_product(const PackedRows& rows, size_t count, size_t index, size_t first_panel, size_t panels,
                           size_t first_step, size_t steps) const;

 private:
  const float* widened(const float* values, const size_t* first, Workspace& memory) const;
};

// An MLP, w2 . norm(activation(w1 . x + b1)) + b2, or those of E experts; all matrices are of one type. With a gate the
// hidden values are activation(gate . x) * (w1 . x + b1).
struct MlpWeights {
  LinearWeights first;   // [E, D, F]
  LinearWeights second;  // [E, F, D]
  // Quantized: what of the hidden values shares a scale, a multiple of 64 that divides F; 0 is all of it. The same
  // number that the second matrix was packed with.
  size_t hidden_chunk = 0;
  Activation activation = Activation::kGeluTanh;
  LinearWeights gate = {};     // [1, D, F] of a dense layer, or none
  LayerNorm hidden_norm = {};  // of the same, or none

  size_t experts() const { return first.matrix->matrices(); }
  size_t hidden() const { return first.matrix->depth(); }           // D
  size_t expert_hidden() const { return first.matrix->columns(); }  // F
};

// The row tiles `first_tile` to `end_tile` of what `rows` describes; scratch is taken here. Throws std::bad_alloc.
void pack_tiles(const Kernels& kernels, TileRows rows, size_t first_tile, size_t end_tile);

// Some consecutive rows that one matrix is multiplied with.
struct RowGroup {
  size_t matrix = 0;
  size_t begin = 0;
  size_t end = 0;

  size_t count() const { return end - begin; }
};

// Rows of a group whose activations stay in this processor's second-level cache, beside a panel.
size_t most_rows_of_group();

// Cuts the rows first[m] to first[m + 1] of each matrix m into groups: few enough rows to stay in a core's cache, and
// as many groups for each thread where that leaves them with enough rows. The largest come first.
std::vector<RowGroup> group_rows(const size_t* first, size_t matrices);

// Most rows of a group.
size_t find_most_rows(const std::vector<RowGroup>& groups);

}  // namespace vmoe
