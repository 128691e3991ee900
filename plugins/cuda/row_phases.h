// Dispatch and combine for one row. Lane i processes words i, i + lanes, i + 2 * lanes and so on of the row. No lane
// reads what another lane writes, so no barrier is needed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/element.h"
#include "core/host_device.h"
#include "cuda/words.h"

namespace vmoe::cuda {

// Number of words that a lane reads before it writes its first word: kCopyBatch if it copies a row, kCombineBatch if it
// combines rows. Several reads are then in flight at once, so that their latencies overlap.
inline constexpr uint32_t kCopyBatch = 4;
inline constexpr uint32_t kCombineBatch = 2;

// Copies row `source` of x to row `target` of buf. If `source` is negative, fills row `target` with zeros. Reads
// x[tokens, words]. Each lane writes its own elements of buf[slots, words].
template <class In, class Out>
VMOE_HOST_DEVICE void copy_row(uint32_t lane, uint32_t lanes, size_t words, int32_t source, size_t target, const In& x,
                               const Out& buf) {
  using Word = typename Out::Value;
  for (size_t first = lane; first < words; first += static_cast<size_t>(lanes) * kCopyBatch) {
    Word batch[kCopyBatch] = {};
    VMOE_UNROLL for (uint32_t i = 0; i < kCopyBatch; ++i) {
      const size_t w = first + static_cast<size_t>(i) * lanes;
      if (w < words && source >= 0) batch[i] = x.load(static_cast<size_t>(source) * words + w);
    }
    VMOE_UNROLL for (uint32_t i = 0; i < kCopyBatch; ++i) {
      const size_t w = first + static_cast<size_t>(i) * lanes;
      if (w < words) buf.store(target * words + w, batch[i]);
    }
  }
}

// Dispatches to slot `index`. If src[index] is a token, copies that token's row of x to the slot's row of buf.
// Otherwise, fills the slot's row with zeros. Reads src[slots] and x[tokens, words]. Each lane writes its own elements
// of buf[slots, words].
template <class Sources, class In, class Out>
VMOE_HOST_DEVICE void dispatch_row(uint32_t lane, uint32_t lanes, size_t words, size_t tokens, size_t index,
                                   const Sources& src, const In& x, const Out& buf) {
  const int32_t source = src.load(index);
  const bool is_token = source >= 0 && static_cast<size_t>(source) < tokens;
  copy_row(lane, lanes, words, is_token ? source : -1, index, x, buf);
}

// Combines the expert outputs for one token: y is the sum over k of weight * out[slot]. As on the CPU, the sum starts
// with the first product rather than with zero. Invalid slots add nothing. Reads out[slots, words], slot[tokens,K] and
// weight[tokens,K]. Each lane writes its own elements of y[tokens, words].
template <class T, class Out, class Slots, class Weights, class Sums>
VMOE_HOST_DEVICE void combine_row(uint32_t lane, uint32_t lanes, size_t words, size_t token, uint32_t choices,
                                  size_t slots, const Out& out, const Slots& slot, const Weights& weight,
                                  const Sums& y) {
  using Word = typename Sums::Value;
  using Parts = Elements<T, Word>;
  for (size_t first = lane; first < words; first += static_cast<size_t>(lanes) * kCombineBatch) {
    float sum[kCombineBatch][Parts::kCount] = {};
    for (uint32_t k = 0; k < choices; ++k) {
      const int32_t index = slot.load(token * choices + k);
      if (index < 0 || static_cast<size_t>(index) >= slots) continue;
      const float scale = weight.load(token * choices + k);
      Word batch[kCombineBatch] = {};
      VMOE_UNROLL for (uint32_t i = 0; i < kCombineBatch; ++i) {
        const size_t w = first + static_cast<size_t>(i) * lanes;
        if (w < words) batch[i] = out.load(static_cast<size_t>(index) * words + w);
      }
      VMOE_UNROLL for (uint32_t i = 0; i < kCombineBatch; ++i) {
        Parts parts;
        std::memcpy(&parts, &batch[i], sizeof(parts));
        VMOE_UNROLL for (uint32_t j = 0; j < Parts::kCount; ++j) {
          const float product = scale * to_float(parts.at[j]);
          sum[i][j] = k == 0 ? product : sum[i][j] + product;
        }
      }
    }
    VMOE_UNROLL for (uint32_t i = 0; i < kCombineBatch; ++i) {
      const size_t w = first + static_cast<size_t>(i) * lanes;
      if (w >= words) break;
      Parts parts;
      VMOE_UNROLL for (uint32_t j = 0; j < Parts::kCount; ++j) parts.at[j] = from_float<T>(sum[i][j]);
      Word word;
      std::memcpy(&word, &parts, sizeof(word));
      y.store(token * words + w, word);
    }
  }
}

}  // namespace vmoe::cuda
