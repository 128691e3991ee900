// The inner loops, compiled once per instruction set: products of rows with panels of weights, softmax, rounding.
//
// A product adds up each output over the depth in one fixed order. The bits of an output therefore depend only on the
// output's row and on the panel. They do not depend on other rows, the number of rows, or the threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/activation.h"
#include "core/cpu_path.h"
#include "core/merging_keys.h"
#include "core/tile_kernels.h"

namespace vmoe {

// What a product does to its sums before it stores them. The fields are applied in the order of their declaration.
struct Epilogue {
  const float* bias = nullptr;  // f32[columns], or none
  Activation activation = Activation::kNone;
  // If `factor` is not null, the result of the activation is multiplied by this matrix, element by element. The pointer
  // points to the element for the product's first row and column. The row stride is the same as the output's. `factor`
  // and the output may be the same memory. Requires an activation.
  const float* factor = nullptr;
  bool round_bf16 = false;  // round the result to bfloat16, but store it as float32
};

// The arguments of out[r, 0:columns] = epilogue(rows[r, 0:depth] x panel). All values are float32.
struct PanelProduct {
  const float* rows = nullptr;     // [.., row_stride]; row r is at index[r], or at r if `index` is null
  const int32_t* index = nullptr;  // i32[row_count] or none
  size_t row_stride = 0;           // elements
  size_t row_count = 0;
  size_t depth = 0;
  const float* panel = nullptr;  // packed as pack_panel does
  size_t columns = 0;            // 1 to panel_columns
  // The panel that will probably be multiplied next. The product prefetches it. May be null.
  const void* next_panel = nullptr;
  size_t next_panel_bytes = 0;
  Epilogue epilogue;
  float* out = nullptr;   // the output of row 0, at the panel's first column
  size_t out_stride = 0;  // elements
};

struct Kernels {
  CpuPath path;
  size_t lanes;          // number of float32 values in a vector
  size_t panel_columns;  // number of columns in a full panel
  size_t tile_rows;      // number of rows in a tile; the tile's sums stay in registers

  void (*product_f32)(const PanelProduct& product);

  // Computes to[row, column] = from[column, row] for `rows` rows and `columns` columns of `to`.
  void (*transpose)(const float* from, size_t from_stride, size_t rows, size_t columns, float* to, size_t to_stride);

  // Replaces each values[i] by exp(values[i] - max) / sum, where `max` is the largest value and `sum` is the sum of the
  // exponentials. Results below about 2^-126, which would be subnormal, are 0.
  void (*softmax)(float* values, size_t count);

  // Does the same, but keeps subnormal results. Gates need them: a token's experts are ranked by their gates.
  void (*gate_softmax)(float* values, size_t count);

  // Replaces each scores[i] by exp(scale * (scores[i] - max)) / sum. Is faster than `softmax`, but raises exponentials
  // below 2^-80 to 2^-80. `scores` must be aligned to 64 bytes. Its memory must have room for `count` values, rounded
  // up to a multiple of 16.
  void (*attention_softmax)(float* scores, size_t count, float scale);

  // Rounds each value to the nearest bfloat16, ties to even, and stores it as float32.
  void (*round_bf16)(const float* from, size_t count, float* to);

  // Normalizes one row as LayerNorm describes (see residual.h). `out` may be `row`. All arrays are f32[count].
  void (*normalize)(const float* row, const float* scale, const float* bias, size_t count, float* out);

  // Writes one token's row of a RotationTable: the cosines and the sines of the token's angles, f32[2 * pairs] each.
  // Each value is written twice, once for each column of the pair. The first of the two sines is negated.
  void (*angles_to_table)(const float* coordinates, size_t count, const float* frequencies, size_t pairs,
                          float* cosines, float* sines);
  // Rotates a row by a row of a RotationTable. `out` may be `row`.
  void (*rotate_row)(const float* row, const float* cosines, const float* sines, size_t count, float* out);

  // Merging: computes the mean of each token's keys over the heads, and scales it to length 1. Writes those of `count`
  // tokens, beginning with token `first`, to `to`, f32[count, keys.size].
  void (*unit_keys)(const MergingKeys& keys, size_t first, size_t count, float* to);
  // Merging: returns the largest score that is not NaN, or minus infinity if there is no such score.
  float (*largest_score)(const float* scores, size_t count);

  // Multiply by weights in tiles. There is one kernel for each mode of tile_kernels.h.
  void (*multiply_to_float_rows)(const TileProduct& product, const FloatRows& to);
  void (*multiply_to_hidden_rows)(const TileProduct& product, const HiddenRows& to);
  void (*multiply_to_hidden_lines)(const TileProduct& product, const HiddenLines& to);
  void (*multiply_to_head_lines)(const TileProduct& product, const HeadLines& to);
  void (*pack_rows)(const TileRows& rows);
  void (*attend)(const TileHead& head);
  // Whether a thread must configure its tile registers before it runs these kernels. run_stages() configures them; its
  // calls are never nested.
  bool needs_tile_configuration;
  // Whether the rows that are multiplied by weights with one scale per column are stored as unsigned bytes. Each byte
  // is then 128 more than the value. See TileProduct::column_excess.
  bool unsigned_rows;
  // Returns the number of bytes in a group (see tiles.h) if the weights have type `weights`. For int4, each value
  // counts as one byte here, although two values are packed into a byte.
  size_t (*group_bytes)(ElementType weights);
};

// Returns the kernels of `path`, which must be supported; see cpu_path_supported().
const Kernels& kernels_for(CpuPath path);

// Returns the number of elements of a packed panel: `depth` rows of `columns` elements each, padded to whole vectors.
size_t panel_elements(const Kernels& kernels, size_t depth, size_t columns);

// Returns the number of elements of all packed panels of a [depth, columns] matrix.
size_t packed_elements(const Kernels& kernels, size_t depth, size_t columns);

// Calls visit(first column, number of columns, index of the first element) for each panel of a packed [depth, columns]
// matrix.
template <class Visit>
void for_each_panel(const Kernels& kernels, size_t depth, size_t columns, Visit&& visit) {
  size_t place = 0;
  for (size_t column = 0; column < columns; column += kernels.panel_columns) {
    const size_t count = std::min(kernels.panel_columns, columns - column);
    visit(column, count, place);
    place += panel_elements(kernels, depth, count);
  }
}

// Computes out[r, 0:columns] = rows[r] x panel for `row_count` rows, without index or epilogue.
void multiply_panel(const Kernels& kernels, const float* rows, size_t row_stride, size_t row_count, size_t depth,
                    const float* panel, size_t columns, float* out, size_t out_stride);

// Packs weights[0:depth, 0:columns] into panel_elements() values. The rows of `weights` are `stride` elements apart.
void pack_panel(const Kernels& kernels, const float* weights, size_t stride, size_t depth, size_t columns,
                float* packed);

// Packs the transpose of weights[0:columns, 0:depth]. The rows of `weights` are `stride` elements apart.
void pack_transposed_panel(const Kernels& kernels, const float* weights, size_t stride, size_t depth, size_t columns,
                           float* packed);

}  // namespace vmoe
