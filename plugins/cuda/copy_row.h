// Copies one row, or fills it with zeros.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/host_device.h"

namespace vmoe::cuda {

// Number of words that a lane reads before it writes the first one. Several reads are then in flight at once, so that
// their latencies overlap.
inline constexpr uint32_t kCopyBatch = 4;

// Copies row `source` to row `target`. Both have `words` words. If `source` is null, fills `target` with zeros. Lane i
// of the row's lanes copies words i, i + lanes, i + 2 * lanes and so on.
template <class Word>
__device__ __forceinline__ void copy_row(uint32_t lane, uint32_t lanes, size_t words, const Word* source,
                                         Word* target) {
  for (size_t first = lane; first < words; first += static_cast<size_t>(lanes) * kCopyBatch) {
    Word batch[kCopyBatch] = {};
    VMOE_UNROLL for (uint32_t i = 0; i < kCopyBatch; ++i) {
      const size_t w = first + static_cast<size_t>(i) * lanes;
      if (w < words && source != nullptr) batch[i] = source[w];
    }
    VMOE_UNROLL for (uint32_t i = 0; i < kCopyBatch; ++i) {
      const size_t w = first + static_cast<size_t>(i) * lanes;
      if (w < words) target[w] = batch[i];
    }
  }
}

}  // namespace vmoe::cuda
