// The arguments of the kernels that read and write tiles (tiles.h): products, the packing of rows, and attention.
//
// A product computes each output as a sum over the depth, in one fixed order. The bits of an output therefore depend
// only on the output's own row and on the weights. They do not depend on other rows, the number of rows, or the
// threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "core/activation.h"
#include "core/tiles.h"

namespace vmoe {

// Rows of activations times consecutive panels of weights. How sums become float32 depends on the type of the
// weights:
//
// | type | rows | sums | float32 |
// |---|---|---|---|
// | bfloat16 | bfloat16 | float32 | the sum |
// | int8 | int8 | int32 | float32(sum) * (row scale * column scale) |
// | int4 | int8 | int32 of a step | float32(sum) * scale of the step's group, added up in order, then * row scale |
//
// None of these multiplications and additions are fused.
struct TileProduct {
  ElementType type = ElementType::kBfloat16;  // of the weights
  const char* rows = nullptr;                 // the first row tile
  size_t row_tile_stride = 0;                 // bytes
  size_t row_count = 0;
  size_t steps = 0;             // of the depth
  const char* panel = nullptr;  // the first panel, at the first step
  size_t panel_stride = 0;      // bytes
  size_t panels = 0;
  size_t columns = 0;                // number of columns of the matrix in these panels, at most panels * 32
  const char* next_panel = nullptr;  // the panel to prefetch after the last panel, or null

  const float* row_scale = nullptr;     // int8 and int4: f32[row_count]
  const float* column_scale = nullptr;  // int8: f32[panels * 32]
  // Used only for int8 weights if rows are read as unsigned bytes: i32[panels * 32], 128 times the sum of each column's
  // weights. This value is subtracted from the column's sums.
  const int32_t* column_excess = nullptr;
  const float* bias = nullptr;  // f32[panels * 32], or none
};

// The mode of a product determines what happens to its float32 sums. Each mode has its own arguments and its own kernel
// in Kernels:
//
// | mode | writes | weights |
// |---|---|---|
// | FloatRows | float32: (addend + sum) + bias | all types |
// | HiddenRows | float32: activation(sum + bias) * factor | all types |
// | HiddenLines | lines of bfloat16: activation(sum + bias) * factor | bfloat16 |
// | HeadLines | lines of bfloat16: sum + bias, rotated | bfloat16 and int8 |
//
// In each mode, row r begins `offset[r]` bytes after `out`. Modes with float32 rows write only `columns` columns of the
// product. Modes with lines write all 32 columns of each panel; the lines of the next panel begin `line_stride` bytes
// later.

// The addresses of rows that are scattered in memory, so that offsets from a common start cannot describe them.
struct ScatteredRows {
  float* const* row = nullptr;  // [row_count]
  size_t first_column = 0;      // the column in these rows at which the product begins
};

struct FloatRows {
  float* out = nullptr;
  const size_t* offset = nullptr;          // [row_count]
  const float* addend = nullptr;           // rows at the same offsets as the output, or null; may be `out`
  std::optional<ScatteredRows> scattered;  // if set, used instead of `out`; the addend is still read at `offset`
};

struct HiddenRows {
  Activation activation = Activation::kNone;
  const float* factor = nullptr;  // f32[row_count, panels * 32], or none
  float* out = nullptr;
  const size_t* offset = nullptr;  // [row_count]
};

struct HiddenLines {
  Activation activation = Activation::kNone;
  const float* factor = nullptr;  // f32[row_count, panels * 32], or none
  char* out = nullptr;
  const size_t* offset = nullptr;  // [row_count]
  size_t line_stride = 0;
};

// Rotates rows by the angles in a rotation table (rotation.h).
struct LineRotation {
  const float* cosines = nullptr;
  const float* sines = nullptr;
  const size_t* offset = nullptr;  // [row_count]: index in the table at which the values for row r begin
  size_t period = 0;               // number of columns in a row of the table
  size_t first_column = 0;         // the column at which the product's first panel begins
};

// A float32 copy of the lines, f32[row_count, stride], with the values before rounding.
struct ExactLines {
  float* out = nullptr;
  size_t stride = 0;
  const size_t* column = nullptr;  // [panels]: the column in `out` at which each panel is stored
  size_t first_added_panel = 0;    // from this panel on, values are added to stored values of earlier panels
};

struct HeadLines {
  char* out = nullptr;
  const size_t* offset = nullptr;  // [row_count]
  size_t line_stride = 0;
  std::optional<LineRotation> rotation;
  std::optional<ExactLines> exact;
};

// The float32 rows that are packed as activations for a product. They are normalized and rounded. If the weights are
// int8 or int4, the rows are also scaled.
struct TileRows {
  ElementType type = ElementType::kBfloat16;  // of the weights
  const float* rows = nullptr;     // [.., stride] of float32; row r is at index[r], or at r if `index` is null
  const int32_t* index = nullptr;  // i32[row_count] or none
  size_t stride = 0;               // elements
  size_t row_count = 0;
  size_t depth = 0;
  const float* norm_scale = nullptr;  // f32[depth]: the scale of the rows' LayerNorm, or null for none
  const float* norm_bias = nullptr;   // f32[depth], or none
  bool round_bf16 = false;            // round to bfloat16 before scaling
  float* scratch = nullptr;           // f32[depth in whole lines]
  char* tiles = nullptr;              // output; all steps of each row are written
  size_t row_tile_stride = 0;         // bytes
  // Output for int8 and int4 weights only: f32[row_count], the value max|x| / 127 of each row, or 1 if the row contains
  // only zeros.
  float* scale = nullptr;
};

// The arguments of attention for one head of one image: softmax(q . k / sqrt(size)) . v. The operands of both
// products are bfloat16, so the powers exp(score - max) are rounded to bfloat16 for the second product. The outputs
// of the second product are then divided by the sum of the powers before rounding. A line contains 32 columns of the
// head. The last line is padded with zeros.
struct TileHead {
  const char* q = nullptr;   // row tiles of the first 32 columns
  size_t q_step_stride = 0;  // bytes from the row tiles of 32 columns to the row tiles of the next 32 columns
  size_t queries = 0;
  const char* k = nullptr;  // lines of tokens 0, 1, ... for the first 32 columns
  const char* v = nullptr;
  size_t line_stride = 0;  // bytes from the lines of 32 columns to the lines of the next 32 columns
  size_t tokens = 0;
  const float* added = nullptr;  // f32[tokens in whole panels]: added to each token's scores before scaling; or null
  size_t size = 0;               // columns of a head
  size_t lines = 0;              // lines of a token
  char* scratch = nullptr;       // tile_head_bytes() bytes, 64-byte aligned
  // Row r of the output begins `offset[r]` bytes after `out`.
  void* out = nullptr;
  const size_t* offset = nullptr;  // [queries]
  bool out_lines = false;          // whether to write lines of bfloat16 instead of float32 rows
  size_t out_line_stride = 0;      // of lines: bytes
  size_t out_columns = 0;          // for float32 rows: number of columns to write, at most lines * 32
};

// Returns the size of TileHead::scratch in bytes.
size_t tile_head_bytes(size_t tokens, size_t lines);

}  // namespace vmoe
