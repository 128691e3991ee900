// Launch parameters that all kernels share.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>

#include "cuda/warp.h"

namespace vmoe::cuda {

// CUDA's limit for the second dimension of a grid. If there are more groups than this limit, each block processes
// several groups in a loop.
inline constexpr size_t kMaxGridY = 65535;

// The launch parameters of a kernel that processes rows. block.x is the number of lanes per row, block.y is the number
// of rows per block, and `grid` is the number of blocks.
struct RowLaunch {
  dim3 block;
  unsigned grid;
};

// Plans a launch for `rows` rows of `words` words. In each row, a lane processes about `words_per_lane` words.
inline RowLaunch plan_rows(size_t rows, size_t words, size_t words_per_lane) {
  constexpr size_t kThreads = 256;
  const size_t words_per_warp = kWarp * words_per_lane;
  const size_t warps = (words + words_per_warp - 1) / words_per_warp;
  const size_t lanes = kWarp * std::clamp<size_t>(warps, 1, kThreads / kWarp);
  const size_t rows_per_block = kThreads / lanes;
  return {dim3(static_cast<unsigned>(lanes), static_cast<unsigned>(rows_per_block)),
          static_cast<unsigned>((rows + rows_per_block - 1) / rows_per_block)};
}

}  // namespace vmoe::cuda
