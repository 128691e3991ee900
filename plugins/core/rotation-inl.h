// Rotary positions: tables of angles, and the rotation of rows by them. kernels.cc compiles this file once per
// instruction set.

#if defined(VMOE_CORE_ROTATION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VMOE_CORE_ROTATION_INL_H_
#undef VMOE_CORE_ROTATION_INL_H_
#else
#define VMOE_CORE_ROTATION_INL_H_
#endif

#include <algorithm>

#include "core/vector_math-inl.h"
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace vmoe {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Rotates pairs of adjacent columns: (a, b) becomes (a cos - b sin, b cos + a sin). For each pair, `cosines` contains
// (cos, cos), and `sines` contains (-sin, sin).
HWY_INLINE Floats rotate_pairs(Floats values, Floats cosines, [[maybe_unused]] Floats sines) {
#if HWY_TARGET == HWY_SCALAR
  return hn::Mul(values, cosines);  // never called, because a vector of one value contains no pair
#else
  return hn::MulAdd(values, cosines, hn::Mul(hn::Reverse2(FloatTag(), values), sines));
#endif
}

HWY_ATTR inline void angles_to_table(const float* coordinates, size_t count, const float* frequencies, size_t pairs,
                                     float* cosines, float* sines) {
  const FloatTag d;
  for (size_t i = 0; i < pairs; i += kLanes) {
    const size_t left = std::min(kLanes, pairs - i);
    auto angle = hn::Zero(d);
    for (size_t c = 0; c < count; ++c) {
      angle = hn::MulAdd(hn::Set(d, coordinates[c]), hn::LoadN(d, frequencies + c * pairs + i, left), angle);
    }
    auto sine = hn::Zero(d), cosine = sine;
    hn::SinCos(d, angle, sine, cosine);
    HWY_ALIGN float of_pair[2][kLanes];
    hn::Store(cosine, d, of_pair[0]);
    hn::Store(sine, d, of_pair[1]);
    for (size_t j = 0; j < left; ++j) {
      cosines[2 * (i + j)] = cosines[2 * (i + j) + 1] = of_pair[0][j];
      sines[2 * (i + j)] = -of_pair[1][j];
      sines[2 * (i + j) + 1] = of_pair[1][j];
    }
  }
}

HWY_ATTR inline void rotate_row(const float* row, const float* cosines, const float* sines, size_t count, float* out) {
  size_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  const FloatTag d;
  for (; i + kLanes <= count; i += kLanes) {
    const auto rotated = rotate_pairs(hn::LoadU(d, row + i), hn::LoadU(d, cosines + i), hn::LoadU(d, sines + i));
    hn::StoreU(rotated, d, out + i);
  }
#endif
  for (; i < count; i += 2) {
    const float a = row[i], b = row[i + 1];
    out[i] = __builtin_fmaf(a, cosines[i], b * sines[i]);
    out[i + 1] = __builtin_fmaf(b, cosines[i + 1], a * sines[i + 1]);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace vmoe
HWY_AFTER_NAMESPACE();

#endif  // VMOE_CORE_ROTATION_INL_H_
