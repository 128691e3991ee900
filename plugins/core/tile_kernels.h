// What the inner loops of low-precision layers take: products of tiles, rows into tiles, attention.
//
// A product accumulates each output over the depth in one fixed order, so its bits depend on its own row and on the
// weights alone: not on the other rows, their number, or the threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/activation.h"
#include "core/tiles.h"

namespace vmoe {

// Rows of activations times consecutive panels of weights, in bfloat16 with float32 sums or in int8 with int32 sums.
// With int4 weights the int32 sums of a step become float32(sum) * scale of the step's group, and these are added up in
// their order; none is a fused multiply-add.
struct TileProduct {
  ElementType type = ElementType::kBfloat16;
  const char* rows = nullptr;  // the first row tile, as tiles.h says
  size_t row_tile_stride = 0;  // bytes
  size_t row_count = 0;
  size_t steps = 0;             // of the depth
  const char* panel = nullptr;  // the first panel, at the first step
  size_t panel_stride = 0;      // bytes
  size_t panels = 0;
  const char* next_panel = nullptr;  // read ahead behind the last one; or none

  // int8: sums become float32(sum) * (row_scale * column_scale). int4: sum * row_scale.
  const float* row_scale = nullptr;     // f32[row_count]
  const float* column_scale = nullptr;  // f32[panels * 32]
  // What paths that read rows as unsigned take off each sum: 128 times the sum of its column, i32[panels * 32].
  const int32_t* column_excess = nullptr;

  // Then, in this order: + addend, + bias, activation (with that or lines there is no addend), * factor. With an
  // activation, int8 and int4 go to float32.
  const float* bias = nullptr;  // f32[panels * 32], or none
  Activation activation = Activation::kNone;
  const float* factor = nullptr;  // of what was activated, f32[row_count, panels * 32], or none

  // Lines: before they are stored, they are rotated by the row of a table at rotation_offset[r], whose period is so
  // many columns; the first panel begins at a column of it. See rotation.h.
  const float* cosines = nullptr;  // or none
  const float* sines = nullptr;
  const size_t* rotation_offset = nullptr;  // [row_count]
  size_t rotation_period = 0;
  size_t rotation_column = 0;

  // Row r goes to `out` + offset[r] bytes: as float32, `columns` of them in all, or as lines of bfloat16, one per
  // panel and `line_stride` bytes apart, of which all 32 values are written.
  const size_t* offset = nullptr;  // [row_count]
  bool lines = false;
  const float* addend = nullptr;  // float32, at the same offsets; may be `out`; or none
  size_t columns = 0;             // float32: at most panels * 32
  size_t line_stride = 0;
  void* out = nullptr;
  // Float32: row r goes to out_row[r], from `out_column` on, instead; or none.
  float* const* out_row = nullptr;  // [row_count]
  size_t out_column = 0;
  // Lines: the values before they were rounded as well, f32[row_count, exact_stride], or none: those of panel p go to
  // the columns from exact_column[p] on, and are added to what is there from panel `exact_fresh` on.
  float* exact = nullptr;
  size_t exact_stride = 0;
  const size_t* exact_column = nullptr;  // [panels]
  size_t exact_fresh = 0;
};

// Rows of float32 that become activations of a product: normalized, rounded, and for int8 scaled.
struct TileRows {
  ElementType type = ElementType::kBfloat16;
  const float* rows = nullptr;     // f32[.., stride], row r at index[r], or at r without an index
  const int32_t* index = nullptr;  // i32[row_count] or none
  size_t stride = 0;               // elements
  size_t row_count = 0;
  size_t depth = 0;
  const float* norm_scale = nullptr;  // f32[depth]: normalization as LayerNorm says; or none
  const float* norm_bias = nullptr;   // f32[depth], or none
  bool round_bf16 = false;            // round to bfloat16 before anything is scaled
  float* scratch = nullptr;           // f32[depth in whole lines]
  char* tiles = nullptr;              // all of the lines' steps are written
  size_t row_tile_stride = 0;         // bytes
  // int8 and int4: max|x| / 127 of each row, or 1 where the row is zero, f32[row_count].
  float* scale = nullptr;
};

// One head of one image: softmax(q . k / sqrt(size)) . v. What enters the products is bfloat16, e = exp(score - max) is
// rounded and divided by its sum afterwards. Lines have 32 columns of the head; its size is padded to whole lines.
struct TileHead {
  const char* q = nullptr;  // row tiles; those of the head's next 32 columns `q_step_stride` bytes further
  size_t q_step_stride = 0;
  size_t queries = 0;
  const char* k = nullptr;  // lines of token 0, 1, ..; those of the head's next 32 columns `line_stride` bytes further
  const char* v = nullptr;
  size_t line_stride = 0;
  size_t tokens = 0;
  const float* added = nullptr;  // to each token's scores before they are scaled, f32[tokens in whole panels]; or none
  size_t size = 0;               // columns of a head
  size_t lines = 0;              // lines that they take
  char* scratch = nullptr;       // tile_head_bytes, at a multiple of 64
  // Query r goes to `out` + offset[r] bytes: float32, or bfloat16 lines `out_line_stride` bytes apart.
  const size_t* offset = nullptr;
  bool out_lines = false;
  size_t out_columns = 0;  // float32: columns that are written, at most lines * 32
  size_t out_line_stride = 0;
  void* out = nullptr;
};

size_t tile_head_bytes(size_t tokens, size_t lines);

}  // namespace vmoe
