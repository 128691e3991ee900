// The inner loops, once per instruction set: products of rows with panels of weights, softmax, rounding.
//
// A product accumulates each output over the depth in one fixed order, so its bits depend on its own row and on the
// panel alone: not on the other rows, their number, or the threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/activation.h"
#include "core/cpu_path.h"
#include "core/tile_kernels.h"

namespace vmoe {

// What a product does with its sums before it stores them.
struct Epilogue {
  const float* bias = nullptr;  // f32[columns], or none
  Activation activation = Activation::kNone;
  // With an activation: what it is multiplied with, at the first row and column, in rows as far apart as those of the
  // output, which it may be; or none.
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
  // The panel that is likely to be used next, read ahead from memory; or none.
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
  size_t tile_rows;      // rows that a product takes at once

  void (*product_f32)(const PanelProduct& product);

  // to[row, column] = from[column, row] for `rows` rows and `columns` columns of `to`.
  void (*transpose)(const float* from, size_t from_stride, size_t rows, size_t columns, float* to, size_t to_stride);

  // In place: values[i] = exp(values[i] - max) / sum.
  void (*softmax)(float* values, size_t count);

  // In place: scores[i] = exp(scale * (scores[i] - max)) / sum, powers below 2^-126 taken as that. Faster; `scores` is
  // aligned to 64 bytes and has room for whole vectors of 16.
  void (*attention_softmax)(float* scores, size_t count, float scale);

  // Nearest bfloat16, ties to even.
  void (*round_bf16)(const float* from, size_t count, float* to);

  // Normalization of one row, which may be done in place, as LayerNorm says: f32[count] each.
  void (*normalize)(const float* row, const float* scale, const float* bias, size_t count, float* out);

  // One token's row of a RotationTable: cosines and sines of its angles, each twice and the first sine negative,
  // f32[2 * pairs]; and a row rotated by it, which may be done in place.
  void (*angles_to_table)(const float* coordinates, size_t count, const float* frequencies, size_t pairs,
                          float* cosines, float* sines);
  void (*rotate_row)(const float* row, const float* cosines, const float* sines, size_t count, float* out);

  // In tiles.
  void (*multiply)(const TileProduct& product);
  void (*pack_rows)(const TileRows& rows);
  void (*attend)(const TileHead& head);
  // Around those of one thread: whether the matrix unit's registers need to be set. Never nested.
  bool needs_tile_configuration;
  // Whether rows for weights with scales of columns are stored as unsigned, 128 more than they are; see
  // TileProduct::column_excess.
  bool unsigned_rows;
  // Bytes of the depth that stand side by side in tiles of weights; see tiles.h.
  size_t int8_group;  // and of int4, before two share a byte
  size_t bf16_group;

  size_t group_bytes(ElementType type) const { return type == ElementType::kBfloat16 ? bf16_group : int8_group; }
};

// The kernels of a path that is supported; see cpu_path_supported.
const Kernels& kernels_for(CpuPath path);

// Elements of a packed panel: `depth` rows of `columns` padded to whole vectors.
size_t panel_elements(const Kernels& kernels, size_t depth, size_t columns);

// Those of all panels of a [depth, columns] matrix.
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
