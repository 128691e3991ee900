// The transpose of a block of 32-bit values, once per instruction set.

#if defined(VMOE_CORE_TRANSPOSE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VMOE_CORE_TRANSPOSE_INL_H_
#undef VMOE_CORE_TRANSPOSE_INL_H_
#else
#define VMOE_CORE_TRANSPOSE_INL_H_
#endif

#include <cstddef>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace vmoe {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// to[row * to_stride + column] = from[column * from_stride + row]
HWY_ATTR HWY_NOINLINE inline void transpose(const float* from, size_t from_stride, size_t rows, size_t columns,
                                            float* to, size_t to_stride) {
  size_t column = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::FixedTag<float, 4> d;
  for (; column + 4 <= columns; column += 4) {
    const float* first = from + column * from_stride;
    size_t row = 0;
    for (; row + 4 <= rows; row += 4) {
      const auto a = hn::LoadU(d, first + row);
      const auto b = hn::LoadU(d, first + from_stride + row);
      const auto c = hn::LoadU(d, first + 2 * from_stride + row);
      const auto e = hn::LoadU(d, first + 3 * from_stride + row);
      const auto low_ab = hn::InterleaveLower(d, a, b);
      const auto low_ce = hn::InterleaveLower(d, c, e);
      const auto high_ab = hn::InterleaveUpper(d, a, b);
      const auto high_ce = hn::InterleaveUpper(d, c, e);
      float* place = to + row * to_stride + column;
      hn::StoreU(hn::ConcatLowerLower(d, low_ce, low_ab), d, place);
      hn::StoreU(hn::ConcatUpperUpper(d, low_ce, low_ab), d, place + to_stride);
      hn::StoreU(hn::ConcatLowerLower(d, high_ce, high_ab), d, place + 2 * to_stride);
      hn::StoreU(hn::ConcatUpperUpper(d, high_ce, high_ab), d, place + 3 * to_stride);
    }
    for (; row < rows; ++row) {
      for (size_t i = 0; i < 4; ++i) to[row * to_stride + column + i] = first[i * from_stride + row];
    }
  }
#endif
  for (; column < columns; ++column) {
    for (size_t row = 0; row < rows; ++row) to[row * to_stride + column] = from[column * from_stride + row];
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace vmoe
HWY_AFTER_NAMESPACE();

#endif  // VMOE_CORE_TRANSPOSE_INL_H_
