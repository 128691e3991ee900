// Dispatch and combine, for one row at a time: its lanes take the row's words in turn. No lane reads what another one
// writes, so there is no barrier. A Word is what one access moves: 16 bytes where rows and pointers allow, else one
// element.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/host_device.h"
#include "cuda/element.h"

namespace vmoe::cuda {

struct alignas(16) Word16 {
  uint32_t part[4];
};

// Copies row `source` of x to row `place` of buf, or zeros where source is negative.
// Reads x[tokens, words]. Writes buf[places, words], its own.
template <class In, class Out>
VMOE_HOST_DEVICE void CopyRow(uint32_t lane, uint32_t lanes, size_t words, int32_t source, size_t place, const In& x,
                              const Out& buf) {
  using Word = typename Out::Value;
#if defined(__CUDA_ARCH__)
#pragma unroll 4
#endif
  for (size_t w = lane; w < words; w += lanes) {
    Word word{};
    if (source >= 0) word = x.Load(static_cast<size_t>(source) * words + w);
    buf.Store(place * words + w, word);
  }
}

template <class T, class Word>
struct Elements {
  static constexpr uint32_t kCount = sizeof(Word) / sizeof(T);
  T at[kCount];
};

// One token of combine: y = the sum over k of weight * out[slot]. As on the CPU, the first pair's product is the sum so
// far, not added to zero. Slots of no place add nothing. Reads out[places, words], slot[tokens,K], weight[tokens,K].
// Writes y[tokens, words], its own.
template <class T, class Out, class Slots, class Weights, class Sums>
VMOE_HOST_DEVICE void CombineRow(uint32_t lane, uint32_t lanes, size_t words, size_t token, uint32_t choices,
                                 size_t places, const Out& out, const Slots& slot, const Weights& weight,
                                 const Sums& y) {
  using Word = typename Sums::Value;
  using Parts = Elements<T, Word>;
  for (size_t w = lane; w < words; w += lanes) {
    float sum[Parts::kCount] = {};
    for (uint32_t k = 0; k < choices; ++k) {
      const int32_t place = slot.Load(token * choices + k);
      if (place < 0 || static_cast<size_t>(place) >= places) continue;
      const float scale = ToFloat(weight.Load(token * choices + k));
      const Word word = out.Load(static_cast<size_t>(place) * words + w);
      Parts parts;
      std::memcpy(&parts, &word, sizeof(parts));
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
      for (uint32_t i = 0; i < Parts::kCount; ++i) {
        const float product = scale * ToFloat(parts.at[i]);
        sum[i] = k == 0 ? product : sum[i] + product;
      }
    }
    Parts parts;
    for (uint32_t i = 0; i < Parts::kCount; ++i) parts.at[i] = FromFloat<T>(sum[i]);
    Word word;
    std::memcpy(&word, &parts, sizeof(word));
    y.Store(token * words + w, word);
  }
}

}  // namespace vmoe::cuda
