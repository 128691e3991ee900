// Blocks of a product: up to three row tiles times a panel. kernels.cc compiles this once per instruction set.
//
// How a block is multiplied is what differs between processors: vector_block-inl.h does it in vectors,
// matrix_unit_block-inl.h in tile registers.

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

// Row tiles of a block: where the first one begins, how far apart they and their steps are, and the number of rows. Of
// the panel's last step, and of its columns, vectors read no more lines and columns than these.
struct TileOperand {
  const char* tiles;
  size_t row_tile_stride;
  size_t step_stride;
  size_t row_count;
  size_t last_lines = kRowsPerTile;
  size_t columns = kPanelColumns;
};

// Row tiles of the next block: two, but three at an odd end, which read a panel once less than two and one.
constexpr size_t row_tiles_of_block(size_t left) { return left == 3 ? 3 : left < 2 ? left : 2; }

// Multiply for a number of row tiles that is known only now.
template <class Block, ElementType kType, class Beside>
HWY_INLINE void multiply_block(size_t row_tiles, const TileOperand& rows, const char* panel, size_t steps, float* sums,
                               Beside& beside) {
  // Tile registers are read and written behind the compiler's back.
  asm volatile("" : : : "memory");
  switch (row_tiles) {
    case 1: Block::template multiply<kType, 1>(rows, panel, steps, sums, beside); break;
    case 2: Block::template multiply<kType, 2>(rows, panel, steps, sums, beside); break;
    default: Block::template multiply<kType, 3>(rows, panel, steps, sums, beside); break;
  }
  asm volatile("" : : : "memory");
}

// Lines of memory that are asked for at a steady rate before they are needed, into the second-level cache: it waits for
// more of them at once than the first one.
struct LinesAhead {
  const char* next = nullptr;
  size_t rate = 0;  // lines per step, times 256
  size_t due = 0;

  HWY_INLINE void step() {
    for (due += rate; due >= 256; due -= 256) {
      __builtin_prefetch(next, 0, 2);
      next += kLineBytes;
    }
  }
};

// For multiply_block where there is nothing else to do.
struct NothingBeside {
  LinesAhead lines;

  HWY_INLINE void step() {}
  HWY_INLINE void finish_rows() {}
};

}  // namespace HWY_NAMESPACE
}  // namespace vmoe
HWY_AFTER_NAMESPACE();

#endif  // VMOE_CORE_TILE_BLOCK_INL_H_
