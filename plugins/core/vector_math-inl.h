// Vector functions: rounding, powers, activations, and the transpose of a block of 32-bit values. kernels.cc compiles
// this file once per instruction set.
//
// `activate` divides, whereas `fast_activate` multiplies by a reciprocal. With `fast_activate`, a GELU takes about 31
// instructions of 512 bits. On a Xeon with AMX, this is 2.8 ns per vector.
//
// No power here is subnormal, because some processors take tens of times as long for subnormal numbers. Without the
// limit of 2^-64, a GELU of hidden values between about 10.1 and 13 took 65 to 70 ns per vector on that Xeon (commit
// 722d4896).

#if defined(VMOE_CORE_VECTOR_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VMOE_CORE_VECTOR_MATH_INL_H_
#undef VMOE_CORE_VECTOR_MATH_INL_H_
#else
#define VMOE_CORE_VECTOR_MATH_INL_H_
#endif

#include "core/activation.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace vmoe {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using BitsTag = hn::RebindToUnsigned<FloatTag>;
using SignedTag = hn::RebindToSigned<FloatTag>;
using Floats = hn::Vec<FloatTag>;
using Bits = hn::Vec<BitsTag>;
using Integers = hn::Vec<SignedTag>;

constexpr size_t kLanes = HWY_LANES(float);

HWY_INLINE Bits rounded_bf16(Bits bits) {
  const BitsTag du;
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fffu)));
  const auto quiet = hn::Or(bits, hn::Set(du, 0x400000u));
  const auto is_nan = hn::Gt(hn::And(bits, hn::Set(du, 0x7fffffffu)), hn::Set(du, 0x7f800000u));
  return hn::And(hn::IfThenElse(is_nan, quiet, rounded), hn::Set(du, 0xffff0000u));
}

HWY_INLINE Floats round_to_bf16(Floats values) {
  return hn::BitCast(FloatTag(), rounded_bf16(hn::BitCast(BitsTag(), values)));
}

// Return the smaller or larger of two numbers. In plain C++, hn::Min and hn::Max branch, so that the time would depend
// on the values.
HWY_INLINE Floats minimum(Floats a, Floats b) {
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
  return hn::IfThenElse(hn::Lt(a, b), a, b);
#else
  return hn::Min(a, b);
#endif
}

HWY_INLINE Floats maximum(Floats a, Floats b) {
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
  return hn::IfThenElse(hn::Gt(a, b), a, b);
#else
  return hn::Max(a, b);
#endif
}

// Returns 2^t for t from -126 to 127, with a relative error of at most 2e-7. The polynomials are nearly the best ones
// of their degree; their own error is 8e-8.
HWY_INLINE Floats exp2_in_range(Floats t) {
  const FloatTag d;
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  constexpr int kDown = 9;                            // round towards minus infinity, without exceptions
  const Floats part{_mm512_reduce_ps(t.raw, kDown)};  // 0 to 1
  auto power = hn::Set(d, 0.00187757659f);
  power = hn::MulAdd(power, part, hn::Set(d, 0.00898934031f));
  power = hn::MulAdd(power, part, hn::Set(d, 0.0558263179f));
  power = hn::MulAdd(power, part, hn::Set(d, 0.240153617f));
  power = hn::MulAdd(power, part, hn::Set(d, 0.693153073f));
  power = hn::MulAdd(power, part, hn::Set(d, 0.999999925f));
  return Floats{_mm512_scalef_ps(power.raw, t.raw)};
#else
  const SignedTag di;
  // The sum has no bits for fractions, and ends with the bits of the rounded number.
  const auto magic = hn::Set(d, 0x1.8p23f);
  const auto sum = hn::Add(t, magic);
  const auto part = hn::Sub(t, hn::Sub(sum, magic));  // -0.5 to 0.5
  auto power = hn::Set(d, 0.00132764706f);
  power = hn::MulAdd(power, part, hn::Set(d, 0.00967554132f));
  power = hn::MulAdd(power, part, hn::Set(d, 0.0555071328f));
  power = hn::MulAdd(power, part, hn::Set(d, 0.240221197f));
  power = hn::MulAdd(power, part, hn::Set(d, 0.693146967f));
  power = hn::MulAdd(power, part, hn::Set(d, 1.00000007f));
  const auto exponent = hn::ShiftLeft<23>(hn::BitCast(di, sum));
  return hn::BitCast(d, hn::Add(hn::BitCast(di, power), exponent));
#endif
}

// Returns 2^t for t up to 127, or 2^-80 if t is below -80, or NaN if t is NaN. For the powers of a softmax, whose sum
// is at least 1: powers below 2^-80 do not change the sum's bits, and 2^-80 is still normal after a division by the
// sum.
HWY_INLINE Floats exp2_of_score(Floats t) {
  const FloatTag d;
  const auto lowest = hn::Set(d, -80.0f);
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  return exp2_in_range(maximum(lowest, t));  // if t is NaN, x86 returns the second operand
#else
  return hn::IfThenElse(hn::IsNaN(t), t, exp2_in_range(maximum(t, lowest)));
#endif
}

// Returns `slope` such that the activation of x is x / (1 + 2^(x * slope)). Every activation can be written in this
// form, which avoids cancellation.
HWY_INLINE Floats slope_of(Activation activation, Floats x) {
  const FloatTag d;
  const auto square = hn::Mul(x, x);
  if (activation == Activation::kGeluTanh) {  // -2 / ln 2 * sqrt(2 / pi) * (1 + 0.044715 x^2)
    return hn::MulAdd(square, hn::Set(d, -0.10294324f), hn::Set(d, -2.3022082f));
  }
  if (activation != Activation::kGeluErf) {
    return hn::Set(d, activation == Activation::kGeluQuick ? -2.4554670f : -1.4426950f);  // -1.702 / ln 2, -1 / ln 2
  }
  // Computes log2(P(-x) / P(x)) / x, where P is the cumulative normal distribution. The polynomial is nearly the best
  // one of its degree. The polynomial alone causes an error of 7e-8 in the activation. If the activation is above 1,
  // this error is relative. In total, `activate` is within 2e-7 of the exact value, and `fast_activate` is within 3e-7.
  const auto inside = minimum(square, hn::Set(d, 30.25f));
  auto slope = hn::Set(d, -5.2099058e-9f);
  slope = hn::MulAdd(slope, inside, hn::Set(d, 3.8504487e-7f));
  slope = hn::MulAdd(slope, inside, hn::Set(d, -1.1452427e-5f));
  slope = hn::MulAdd(slope, inside, hn::Set(d, 1.5938940e-4f));
  slope = hn::MulAdd(slope, inside, hn::Set(d, 9.5592994e-5f));
  slope = hn::MulAdd(slope, inside, hn::Set(d, -0.10483858f));
  return hn::MulAdd(slope, inside, hn::Set(d, -2.3022072f));
}

// Returns `divisor` such that the activation of x is x / divisor. The exponent has two limits. Below -64, the divisor
// is 1 in the precision of float32. Above 126, the divisor stays 2^126, so that the result for an x between -850 and 0
// is not 0, but at most 1e-35 in magnitude.
HWY_INLINE Floats divisor_of(Activation activation, Floats x) {
  const FloatTag d;
  const auto power = hn::Mul(x, slope_of(activation, x));
  const auto exponent = maximum(minimum(power, hn::Set(d, 126.0f)), hn::Set(d, -64.0f));
  return hn::Add(hn::Set(d, 1.0f), exp2_in_range(exponent));
}

HWY_INLINE Floats activate(Activation activation, Floats x) { return hn::Div(x, divisor_of(activation, x)); }

// Computes the same function as `activate`, but without a division on x86. The result is within three units in the
// last place of the exact quotient. Use this function for values that are rounded afterwards.
HWY_INLINE Floats fast_activate(Activation activation, Floats x) {
  auto divisor = divisor_of(activation, x);
#if HWY_ARCH_X86
  const FloatTag d;
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
  // There, the reciprocal is exact, and subnormal if the divisor is above 2^126.
  divisor = minimum(divisor, hn::Set(d, 0x1p126f));
#endif
  auto unit = hn::ApproximateReciprocal(divisor);
  unit = hn::Mul(unit, hn::NegMulAdd(divisor, unit, hn::Set(d, 2.0f)));  // one step of Newton's
  return hn::Mul(x, unit);
#else
  return hn::Div(x, divisor);
#endif
}

// Computes to[row * to_stride + column] = from[column * from_stride + row].
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

#endif  // VMOE_CORE_VECTOR_MATH_INL_H_
