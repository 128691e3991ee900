// The memory layout of low-precision products. A tile is 16 lines of 64 bytes. A matrix unit loads a tile with one
// instruction, and paths without a matrix unit read this layout equally well.
//
// A step is the part of the depth that fits into one line of activations: 32 bfloat16 or 64 int8. A group is the part
// of the depth that fits into one line of weights: 4 bytes, which are 2 bfloat16 or 4 int8.
//
// | | layout | a line contains |
// |---|---|---|
// | activations | [row tile][step][16 rows][64 B] | one row, one step |
// | weights | [panel of 32 columns][step][2][16 lines][64 B] | 16 columns, one group |
//
// With this layout, a product writes whole lines of the next product's activations, and reads a panel from its first
// byte to its last. Elements beyond the last row, column or depth are zero.
//
// Some ARM instructions multiply 8 bytes of the depth. On paths that use these instructions, a group has 8 bytes, and
// two lines of weights become one line of 128 bytes. int8 activations are also split into groups: [row tile][step][8
// groups][16 rows][8 B].
//
// int4 weights are multiplied by int8 activations. The 64 weights of a column in one step share a scale.
// - Weights: 8 is added to each weight before it is stored. A byte contains weights from two lines: one from the first
//   line in its low half, and one from the second line in its high half. Each step is followed by the float16 scales of
//   its 32 columns: [panel][step]([2][8 lines][64 B], [32] float16).
// - Activations: each step is followed by the int32 sums of its 16 rows, times -8. A product starts its sums from these
//   values, which cancels the 8 that was added to each weight.
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

// Returns the number of elements in a line of activations.
constexpr size_t depth_of_line(ElementType type) { return kLineBytes / bytes_of(type); }

// Returns the number of steps that are needed for this depth.
constexpr size_t steps_of_depth(ElementType type, size_t depth) { return divide_up(depth, depth_of_line(type)); }

// Returns the offset in bytes at which row `row` begins in the activations. Consecutive row tiles are
// `row_tile_stride` bytes apart.
constexpr size_t line_offset(size_t row, size_t row_tile_stride) {
  return row / kRowsPerTile * row_tile_stride + row % kRowsPerTile * kLineBytes;
}

}  // namespace vmoe
