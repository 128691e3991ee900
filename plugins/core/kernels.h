// The inner loops, once per instruction set: products of rows with panels of weights, softmax, rounding.
//
// A product adds up each output over the depth in one fixed order. The bits of an output depend on its own row and on
// the panel alone, not on the other rows, their number, or the threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/activation.h"
#include "core/cpu_path.h"
#include "core/tile_kernels.h"

namespace vmoe {

// What a product does with its sums before it stores them, in the order of the fields.
struct Epilogue {
  const float* bias = nullptr;  // f32[columns], or none
  Activation activation = Activation::kNone;
  // The result of the activation is multiplied by this matrix, which begins at the first row and column and has the
  // stride of the output. It may be the output. Null for none; requires an activation.
  const float* factor = nullptr;
  bool round_bf16 = false;  // store float32 rounded to bfloat16
};

// out[r, 0:columns] = epilogue(rows[r, 0:depth] x panel), all float32.
struct PanelProduct {
  const float* rows = nullptr;     // [.., row_stride], row r at index[r], or at r without an index
  const int32_t* index = nullptr;  // i32[row_count] or none
  size_t row_stride = 0;           // elements
  size_t row_count = 0;
  size_t depth = 0;
  const float* panel = nullptr;  // packed as pack_panel does
  size_t columns = 0;            // 1 to panel_columns
  // The panel that will probably be used next, which is prefetched; or null.
  const void* next_panel = nullptr;
  size_t next_panel_bytes = 0;
  Epilogue epilogue;
  float* out = nullptr;   // at the panel's first column
  size_t out_stride = 0;  // elements
};

struct Kernels {
  CpuPath path;
  size_t lanes;          // float32 values of a vector
  size_t panel_columns;  // columns of a full panel
  size_t tile_rows;      // rows of a block of sums in registers

  void (*product_f32)(const PanelProduct& product);

  // to[row, column] = from[column, row] for `rows` rows and `columns` columns of `to`.
  void (*transpose)(const float* from, size_t from_stride, size_t rows, size_t columns, float* to, size_t to_stride);

  // In place: values[i] = exp(values[i] - max) / sum.
  void (*softmax)(float* values, size_t count);

  // In place: scores[i] = exp(scale * (scores[i] - max)) / sum. Faster than `softmax`, with powers below 2^-126 raised
  // to 2^-126. `scores` is aligned to 64 bytes and has room for whole vectors of 16.
  void (*attention_softmax)(float* scores, size_t count, float scale);

  // Rounds to the nearest bfloat16, ties to even.
  void (*round_bf16)(const float* from, size_t count, float* to);

  // Normalizes one row as described for LayerNorm, possibly in place. All arrays are f32[count].
  void (*normalize)(const float* row, const float* scale, const float* bias, size_t count, float* out);

  // Writes one token's row of a RotationTable: the cosines and the sines of its angles, f32[2 * pairs] each. Every
  // value is written twice, and the first of the two sines is negated.
  void (*angles_to_table)(const float* coordinates, size_t count, const float* frequencies, size_t pairs,
                          float* cosines, float* sines);
  // Rotates a row by a row of the table, possibly in place.
  void (*rotate_row)(const float* row, const float* cosines, const float* sines, size_t count, float* out);

  // Products with weights in tiles; there is one kernel for each mode. See tile_kernels.h.
  void (*multiply_to_float_rows)(const TileProduct& product, const FloatRows& to);
  void (*multiply_to_hidden_rows)(const TileProduct& product, const HiddenRows& to);
  void (*multiply_to_hidden_lines)(const TileProduct& product, const HiddenLines& to);
  void (*multiply_to_head_lines)(const TileProduct& product, const HeadLines& to);
  void (*pack_rows)(const TileRows& rows);
  void (*attend)(const TileHead& head);
  // Whether a thread has to configure the matrix unit's registers before it runs these kernels; never nested.
  bool needs_tile_configuration;
  // Whether the rows for weights with one scale per column are stored as unsigned, 128 more than their values; see
  // TileProduct::column_excess.
  bool unsigned_rows;
  // Bytes of a group of the depth in tiles of weights; for int4, counted before two values share a byte. See tiles.h.
  size_t (*group_bytes)(ElementType weights);
};

// The kernels of a supported path; see cpu_path_supported.
const Kernels& kernels_for(CpuPath path);

// Returns the number of elements of a packed panel: `depth` rows of `columns`, padded to whole vectors.
size_t panel_elements(const Kernels& kernels, size_t depth, size_t columns);

// Returns the number of elements of all packed panels of a [depth, columns] matrix.
size_t packed_elements(const Kernels& kernels, size_t depth, size_t columns);

// Calls visit(first column, columns, first element) for each of these panels.
template <class Visit>
void for_each_panel(const Kernels& kernels, size_t depth, size_t columns, Visit&& visit) {
  size_t place = 0;
  for (size_t column = 0; column < columns; column += kernels.panel_columns) {
    const size_t count = std::min(kernels.panel_columns, columns - column);
    visit(column, count, place);
    place += panel_elements(kernels, depth, count);
  }
}

// out[r, 0:columns] = rows[r] x panel for `row_count` rows, without index or epilogue.
void multiply_panel(const Kernels& kernels, const float* rows, size_t row_stride, size_t row_count, size_t depth,
                    const float* panel, size_t columns, float* out, size_t out_stride);

// Packs weights[0:depth, 0:columns], rows `stride` elements apart, into panel_elements values.
void pack_panel(const Kernels& kernels, const float* weights, size_t stride, size_t depth, size_t columns,
                float* packed);

// Packs the transpose of weights[0:columns, 0:depth], rows `stride` elements apart.
void pack_transposed_panel(const Kernels& kernels, const float* weights, size_t stride, size_t depth, size_t columns,
                           float* packed);

}  // namespace vmoe
