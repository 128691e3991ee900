// The weights of layers, and the groups of rows that are multiplied by weights in tiles.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "core/packed_weights.h"
#include "core/residual.h"
#include "core/workspace.h"

namespace vmoe {

// The packed activations of a product with weights in tiles. If the activations are quantized, also contains the scale
// of each row. Does not own the memory.
struct PackedRows {
  char* tiles = nullptr;
  float* scale = nullptr;
};

// A packed weight matrix, [1, D, P] or [E, D, P], with its bias. If there is one scale per column, it also has scales.
// `bias` and `scale` are f32[P] or f32[E, P]; they point to inputs of the op. Activations are rounded to bfloat16 for
// bfloat16 weights, and quantized for weights with scales. Sums and biases are float32.
struct LinearWeights {
  std::shared_ptr<const PackedWeights> matrix;
  const float* bias = nullptr;
  const float* scale = nullptr;

  ElementType type() const { return matrix->type(); }
  explicit operator bool() const { return matrix != nullptr; }
  bool in_tiles() const { return weight_type(type()).in_tiles(); }
  bool quantized() const { return weight_type(type()).quantized(); }
  bool has_column_scale() const { return weight_type(type()).scales == Scales::kColumns; }

  // Returns these weights with bias and scale padded to whole panels; `memory` stores the padded copies. If `first`
  // [matrices + 1] is not null, matrix m multiplies the rows first[m] to first[m + 1] (exclusive). In this case, the
  // bias and scale of a matrix without rows are not read, and their padded copies are zero.
  LinearWeights with_padding(Workspace& memory, const size_t* first = nullptr) const;

  // For weights in tiles: returns the number of bytes from one row tile of the activations to the next.
  size_t row_tile_stride() const { return matrix->steps() * weight_type(type()).tile_step_bytes; }

  // For weights in tiles: allocates memory for `count` packed rows of a product.
  PackedRows take_rows(Workspace& memory, size_t count) const;

  // For weights in tiles: returns the arguments for packing `rows` f32[count, D] into `packed`.
  TileRows make_rows(const float* rows, size_t count, const PackedRows& packed) const;

  // For padded weights in tiles: returns the arguments for multiplying `count` rows by `panels` panels of matrix
  // `index`. The product covers the whole depth, or only `steps` steps, beginning at `first_step`. The caller chooses
  // the mode (see tile_kernels.h).
  TileProduct make_product(const PackedRows& rows, size_t count, size_t index, size_t first_panel,
                           size_t panels) const {
    return make_product(rows, count, index, first_panel, panels, 0, matrix->steps());
  }
  TileProduct make_product(const PackedRows& rows, size_t count, size_t index, size_t first_panel, size_t panels,
                           size_t first_step, size_t steps) const;

 private:
  const float* widened(const float* values, const size_t* first, Workspace& memory) const;
};

// An MLP, w2 . norm(activation(w1 . x + b1)) + b2, or the MLPs of E experts. All matrices have the same type. With a
// gate, activation(gate . x + gate bias) * (w1 . x + b1) takes the place of activation(w1 . x + b1).
struct MlpWeights {
  LinearWeights first;   // [E, D, F]
  LinearWeights second;  // [E, F, D]
  // Only for quantized weights: the number of hidden values that share a scale. It is a multiple of 64 that divides F,
  // or 0 if all hidden values of a row share one scale. It equals the depth_chunk of the second matrix.
  size_t hidden_chunk = 0;
  Activation activation = Activation::kGeluTanh;
  LinearWeights gate = {};     // [1, D, F]; only for dense layers, optional
  LayerNorm hidden_norm = {};  // only for dense layers, optional

  size_t experts() const { return first.matrix->matrices(); }
  size_t hidden() const { return first.matrix->depth(); }           // D
  size_t expert_hidden() const { return first.matrix->columns(); }  // F
};

// Packs the row tiles of `rows` from `first_tile` to `end_tile` (exclusive). Allocates the scratch memory itself.
// Throws std::bad_alloc.
void pack_tiles(const Kernels& kernels, TileRows rows, size_t first_tile, size_t end_tile);

// A range of consecutive rows that are multiplied by the same matrix.
struct RowGroup {
  size_t matrix = 0;
  size_t begin = 0;
  size_t end = 0;

  size_t count() const { return end - begin; }
};

// Returns the maximum number of rows in a group. It is chosen so that the group's activations and a panel fit into a
// core's second-level cache.
size_t most_rows_of_group();

// Cuts the rows first[m] to first[m + 1] (exclusive) of each matrix m into groups of at most most_rows_of_group() rows.
// Each thread gets the same number of groups, unless the groups would become too small. The largest groups come first.
std::vector<RowGroup> group_rows(const size_t* first, size_t matrices);

// Returns the number of rows of the largest group.
size_t find_most_rows(const std::vector<RowGroup>& groups);

}  // namespace vmoe
