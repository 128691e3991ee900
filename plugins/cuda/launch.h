// What the launches of all kernels share.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace vmoe::cuda {

// Of a grid's second dimension; more rows or groups are done in a loop.
inline constexpr size_t kMaxGridY = 65535;

inline unsigned Blocks(size_t count) { return static_cast<unsigned>(count); }

inline bool IsAligned16(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

// Rows as blocks of threads see them: x is the lane within a row, y the row within a block.
struct RowLaunch {
  dim3 block;
  unsigned grid;
};

inline RowLaunch PlanRows(size_t rows, size_t words) {
  constexpr size_t kThreads = 256;
  const size_t whole_warps = (words + 31) / 32 * 32;
  const size_t lanes = whole_warps < 32 ? 32 : whole_warps > kThreads ? kThreads : whole_warps;
  const size_t rows_per_block = kThreads / lanes;
  return {dim3(static_cast<unsigned>(lanes), static_cast<unsigned>(rows_per_block)),
          static_cast<unsigned>((rows + rows_per_block - 1) / rows_per_block)};
}

}  // namespace vmoe::cuda
