// The weights of layers, and the groups of rows that are multiplied by weights in tiles.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "core/packed_weights.h"
#include "core/residual.h"
#include "core/workspace.h"

namespace vmoe {

// The activations of a product with weights in tiles. If they are quantized, also the scale of each row. Not owned.
struct PackedRows {
  char* tiles = nullptr;
  float* scale = nullptr;
};

// A packed weight matrix [1, D, P] or [E, D, P], its bias and, if it has one scale per column, its scale: f32[P] or
// f32[E, P] each. Bias and scale are an op's inputs, not owned. Activations are rounded to bfloat16 for bfloat16
// weights, and quantized for weights with scales. Sums and biases are float32.
struct LinearWeights {
  std::shared_ptr<const PackedWeights> matrix;
  const float* bias = nullptr;
  const float* scale = nullptr;

  ElementType type() const { return matrix->type(); }
  explicit operator bool() const { return matrix != nullptr; }
  bool in_tiles() const { return weight_type(type()).in_tiles(); }
  bool quantized() const { return weight_type(type()).quantized(); }
  bool has_column_scale() const { return weight_type(type()).scales == Scales::kColumns; }

  // Returns these weights with bias and scale padded to whole panels, in `memory`. `first` [matrices + 1], if not null,
  // says that matrix m has the rows first[m] to first[m + 1]. Then, bias and scale of a matrix without rows are not
  // read; their padded copies are zero.
  LinearWeights with_padding(Workspace& memory, const size_t* first = nullptr) const;

  // For weights in tiles: bytes from one row tile of the activations to the next.
  size_t row_tile_stride() const { return matrix->steps() * weight_type(type()).tile_step_bytes; }

  // For weights in tiles: takes memory for the packed rows of a product.
  PackedRows take_rows(Workspace& memory, size_t count) const;

  // For weights in tiles: returns the arguments that pack rows f32[count, D] for a product.
  TileRows make_rows(const float* rows, size_t count, const PackedRows& packed) const;

  // For padded weights in tiles: returns the product of `count` rows and some panels, over the whole depth or over
  // `steps` steps of it. The caller chooses the mode.
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
// gate, the hidden values are activation(gate . x) * (w1 . x + b1).
struct MlpWeights {
  LinearWeights first;   // [E, D, F]
  LinearWeights second;  // [E, F, D]
  // If quantized: the number of hidden values that share a scale. It is a multiple of 64 that divides F, or 0 if all
  // share one. Equal to the depth_chunk of the second matrix.
  size_t hidden_chunk = 0;
  Activation activation = Activation::kGeluTanh;
  LinearWeights gate = {};     // [1, D, F] of a dense layer, or none
  LayerNorm hidden_norm = {};  // of a dense layer, or none

  size_t experts() const { return first.matrix->matrices(); }
  size_t hidden() const { return first.matrix->depth(); }           // D
  size_t expert_hidden() const { return first.matrix->columns(); }  // F
};

// Packs the row tiles `first_tile` to `end_tile` of `rows`, and allocates the scratch memory. Throws std::bad_alloc.
void pack_tiles(const Kernels& kernels, TileRows rows, size_t first_tile, size_t end_tile);

// Consecutive rows for the same matrix.
struct RowGroup {
  size_t matrix = 0;
  size_t begin = 0;
  size_t end = 0;

  size_t count() const { return end - begin; }
};

// Returns the maximum rows of a group: their activations and a panel fit into a core's second-level cache.
size_t most_rows_of_group();

// Cuts the rows first[m] to first[m + 1] of each matrix m into groups of at most most_rows_of_group(). Each thread gets
// the same number of groups, unless groups would become too small. The largest groups come first.
std::vector<RowGroup> group_rows(const size_t* first, size_t matrices);

// Returns the number of rows of the largest group.
size_t find_most_rows(const std::vector<RowGroup>& groups);

}  // namespace vmoe
