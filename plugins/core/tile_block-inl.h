// Multiplies a block, which is up to three row tiles times a panel. kernels.cc compiles this file once per
// instruction set.
//
// Processors differ in how they multiply a block: vector_block-inl.h uses vectors, neon_block-inl.h uses ARM's dot
// products and matrix products, and matrix_unit_block-inl.h uses the tile registers of AMX. kernels.cc compares the
// costs.
//
// kMostRowTiles = 3 was derived, not measured. The 197 tokens of a ViT fill 13 row tiles: after five blocks of two
// tiles, three tiles are left. One last block of three tiles reads the panel once, whereas a block of two and a block
// of one would read it twice. A matrix unit does not support more than three row tiles: the sums of three row tiles
// take six of its eight registers.

#if defined(VMOE_CORE_TILE_BLOCK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VMOE_CORE_TILE_BLOCK_INL_H_
#undef VMOE_CORE_TILE_BLOCK_INL_H_
#else
#define VMOE_CORE_TILE_BLOCK_INL_H_
#endif

#include <cstddef>

#include "core/element_type.h"
#include "core/tiles.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace vmoe {
namespace HWY_NAMESPACE {

constexpr size_t kMostRowTiles = 3;  // of a block
constexpr size_t kSumsOfBlock = kMostRowTiles * kRowsPerTile * kPanelColumns;

// The row tiles of a block. Strides are in bytes.
struct TileOperand {
  const char* tiles = nullptr;  // the first row tile
  size_t row_tile_stride = 0;
  size_t step_stride = 0;
  size_t row_count = 0;
  // Kernels that use vectors read only part of the panel: its first `columns` columns, and the first `last_lines` lines
  // of its last step.
  size_t last_lines = kRowsPerTile;
  size_t columns = kPanelColumns;
};

// Returns the number of row tiles of the next block: three if exactly three are left, otherwise at most two.
constexpr size_t row_tiles_of_block(size_t left) { return left == 3 ? 3 : left < 2 ? left : 2; }

// Calls the instance of Block::multiply for `row_tiles` row tiles. This number is known only at run time.
template <class Block, ElementType kType, class Beside>
HWY_INLINE void multiply_block(size_t row_tiles, const TileOperand& rows, const char* panel, size_t steps, float* sums,
                               Beside& beside) {
  // The compiler does not see which memory the tile registers read and write. It must therefore not move memory
  // accesses across the multiplication.
  asm volatile("" : : : "memory");
  switch (row_tiles) {
    case 1: Block::template multiply<kType, 1>(rows, panel, steps, sums, beside); break;
    case 2: Block::template multiply<kType, 2>(rows, panel, steps, sums, beside); break;
    default: Block::template multiply<kType, 3>(rows, panel, steps, sums, beside); break;
  }
  asm volatile("" : : : "memory");
}

// Lines of memory to prefetch at a steady rate. They are prefetched into the second-level cache, because that cache can
// wait for more lines at once than the first-level cache. Every `apart`-th line is prefetched.
struct LinesAhead {
  const char* next = nullptr;
  size_t rate = 0;  // lines per step, times 256
  size_t apart = 1;
  size_t due = 0;

  HWY_INLINE void step() {
    for (due += rate; due >= 256 * apart; due -= 256 * apart) {
      __builtin_prefetch(next, 0, 2);
      next += apart * kLineBytes;
    }
  }
};

// The argument `beside` of multiply_block() if no other work is done during the multiplication.
struct NothingBeside {
  LinesAhead lines;

  HWY_INLINE void step() {}
  HWY_INLINE void finish_rows() {}
};

}  // namespace HWY_NAMESPACE
}  // namespace vmoe
HWY_AFTER_NAMESPACE();

#endif  // VMOE_CORE_TILE_BLOCK_INL_H_
