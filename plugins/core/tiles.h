// The order in which low-precision products read and write: tiles of 16 lines of 64 bytes, which is what a processor's
// matrix unit loads at once and what every other path reads just as well.
//
// A line of activations holds one row over a step of the depth: 32 bfloat16 or 64 int8. Activations lie as
// [row tile][step][16 rows][64 B], so that one product writes whole lines of what the next one reads.
// A line of weights holds 16 columns over a group of 4 bytes of the depth: 2 bfloat16 or 4 int8. Weights lie in panels
// of 32 columns, [panel][step][2][16 lines][64 B]: a product reads a panel from its first byte to its last.
// What is beyond the last row, column or depth is zero.
//
// Where an instruction multiplies 8 bytes of the depth, a group has so many: two lines of weights are one of 128 bytes.
// int8 activations then lie in such groups as well, [row tile][step][8 groups][16 rows][8 B].
//
// int4 weights are multiplied with lines of int8, and a step of the depth is the group that shares a scale. Two lines
// of theirs are one of 64 bytes, the first in the low halves, 8 more than they are; behind a step's lines stand the
// float16 scales of its 32 columns, [panel][step]([2][8 lines][64 B], [32] float16). Behind each step of such
// activations stand the int32 sums of its 16 rows, times -8: where a sum begins, for what the 8 more add.
#pragma once

#include <cstddef>

#include "core/element_type.h"

namespace vmoe {

inline constexpr size_t kRowsPerTile = 16;
inline constexpr size_t kLineBytes = 64;
inline constexpr size_t kTileBytes = kRowsPerTile * kLineBytes;
inline constexpr size_t kPanelColumns = 32;
inline constexpr size_t kPanelStepBytes = 2 * kTileBytes;
inline constexpr size_t kLeastGroupBytes = 4;
inline constexpr int kInt4Excess = 8;

constexpr size_t divide_up(size_t count, size_t size) { return (count + size - 1) / size; }
constexpr size_t round_up(size_t count, size_t size) { return divide_up(count, size) * size; }

// Elements of the depth in a line of activations.
constexpr size_t depth_of_line(ElementType type) { return kLineBytes / bytes_of(type); }

// Steps of a depth.
constexpr size_t steps_of_depth(ElementType type, size_t depth) { return divide_up(depth, depth_of_line(type)); }

// Where a row begins in activations whose row tiles are `row_tile_stride` bytes apart.
constexpr size_t line_offset(size_t row, size_t row_tile_stride) {
  return row / kRowsPerTile * row_tile_stride + row % kRowsPerTile * kLineBytes;
}

}  // namespace vmoe
