// What the launches of all kernels share.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>

namespace vmoe::cuda {

// Of a grid's second dimension; more rows or groups are done in a loop.
inline constexpr size_t kMaxGridY = 65535;

// Rows as blocks of threads see them: x is the lane within a row, y the row within a block.
struct RowLaunch {
  dim3 block;
  unsigned grid;
};

// Each lane has about `words_per_lane` of a row's words.
inline RowLaunch plan_rows(size_t rows, size_t words, size_t words_per_lane) {
  constexpr size_t kThreads = 256;
  constexpr size_t kWarp = 32;
  const size_t warps = (words + kWarp * words_per_lane - 1) / (kWarp * words_per_lane);
  const size_t lanes = kWarp * std::clamp<size_t>(warps, 1, kThreads / kWarp);
  const size_t rows_per_block = kThreads / lanes;
  return {dim3(static_cast<unsigned>(lanes), static_cast<unsigned>(rows_per_block)),
          static_cast<unsigned>((rows + rows_per_block - 1) / rows_per_block)};
}

}  // namespace vmoe::cuda
