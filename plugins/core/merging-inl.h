// The inner loops of token merging. kernels.cc compiles this file once per instruction set.
//
// The compiler vectorizes these plain loops. It never fuses a multiplication with an addition, because of
// -ffp-contract=off in CMakeLists.txt, so the bits are the same for every instruction set.

#if defined(VMOE_CORE_MERGING_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VMOE_CORE_MERGING_INL_H_
#undef VMOE_CORE_MERGING_INL_H_
#else
#define VMOE_CORE_MERGING_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/merging_keys.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace vmoe {
namespace HWY_NAMESPACE {

// Divides kRows rows by their lengths. Each sum of squares is a chain of dependent additions, so the sums of several
// rows are computed side by side. kRows is a constant so that the sums stay in registers.
template <size_t kRows>
HWY_ATTR inline void scale_to_unit_length(size_t size, float* rows) {
  constexpr float kEpsilon = 1e-12f;  // added to a row's squared length before the square root
  float squares[kRows] = {};
  for (size_t i = 0; i < size; ++i) {
    for (size_t row = 0; row < kRows; ++row) squares[row] += rows[row * size + i] * rows[row * size + i];
  }
  for (size_t row = 0; row < kRows; ++row) {
    const float length = std::sqrt(squares[row] + kEpsilon);
    for (size_t i = 0; i < size; ++i) rows[row * size + i] /= length;
  }
}

HWY_ATTR inline void unit_keys(const MergingKeys& keys, size_t first, size_t count, float* to) {
  const float share = 1.0f / static_cast<float>(keys.heads);
  for (size_t t = 0; t < count; ++t) {
    const float* from = keys.values + (first + t) * keys.token_stride;
    float* mean = to + t * keys.size;
    std::copy_n(from, keys.size, mean);
    for (size_t head = 1; head < keys.heads && !keys.summed; ++head) {
      for (size_t i = 0; i < keys.size; ++i) mean[i] += from[head * keys.size + i];
    }
    for (size_t i = 0; i < keys.size; ++i) mean[i] *= share;
  }
  size_t t = 0;
  for (; t + 8 <= count; t += 8) scale_to_unit_length<8>(keys.size, to + t * keys.size);
  for (; t < count; ++t) scale_to_unit_length<1>(keys.size, to + t * keys.size);
}

// Compares in several independent chains to hide the latency of a comparison.
HWY_ATTR inline float largest_score(const float* scores, size_t count) {
  constexpr size_t kChains = 16;
  float largest[kChains];
  std::fill_n(largest, kChains, -std::numeric_limits<float>::infinity());
  const auto compare = [&](size_t first, size_t chains) HWY_ATTR {
    for (size_t i = 0; i < chains; ++i) largest[i] = scores[first + i] > largest[i] ? scores[first + i] : largest[i];
  };
  size_t first = 0;
  for (; first + kChains <= count; first += kChains) compare(first, kChains);
  compare(first, count - first);
  return *std::max_element(largest, largest + kChains);
}

}  // namespace HWY_NAMESPACE
}  // namespace vmoe
HWY_AFTER_NAMESPACE();

#endif  // VMOE_CORE_MERGING_INL_H_
