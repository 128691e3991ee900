// Multiplies 4 bytes of a row (a group) by a line of weights for 16 columns. The passes of vector_block-inl.h call
// these functions. kernels.cc compiles this file once per instruction set.
//
// The table lists the speed of an MLP with 416 rows on Zen 4, relative to float32 on the same path. The numbers are
// derived from the table in kernels.cc:
//
// | | what one step adds to a sum | AVX-512 | AVX2 |
// |---|---|---|---|
// | NativeBf16 | 2 bfloat16 in one instruction | 1.9 x | - |
// | WidenedBf16 | 2 bfloat16 in two instructions, after widening | 0.9 x | 0.9 x |
// | VnniInt8 | 4 int8 in one instruction | 2.9 to 3.3 x | not measured |
// | VnniInt8, int4 | 8 int4 in two instructions | 2.9 to 3.2 x | not measured |
// | PortableInt8 | 4 int8 | 1.3 x | 1.1 x |
// | PortableInt8, int4 | 8 int4 in five instructions | 1.9 x | 1.7 x |
//
// On a Xeon, the bfloat16 instruction VDPBF16PS reached half the rate of float32 products (113 instead of 226 GF/s per
// thread). bfloat16 is therefore widened on that processor.

#if defined(VMOE_CORE_DOT_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VMOE_CORE_DOT_PRODUCTS_INL_H_
#undef VMOE_CORE_DOT_PRODUCTS_INL_H_
#else
#define VMOE_CORE_DOT_PRODUCTS_INL_H_
#endif

#include "core/tiles.h"
#include "core/vector_math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace vmoe {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Multiplies groups of two bfloat16 values after widening them to float32. This code serves processors without bfloat16
// instructions, and processors whose bfloat16 instructions are slower than widening (see cpu_path.cc). A row's values
// are widened once for each step of the depth. Each product then loads one of these values and broadcasts it.
struct WidenedBf16 {
  static constexpr bool kOneInstruction = false;
  using Sums = Floats;
  static HWY_INLINE Sums zero() { return hn::Zero(FloatTag()); }

  static HWY_INLINE void widen(Bits pairs, Floats& even, Floats& odd) {
    const FloatTag d;
    even = hn::BitCast(d, hn::ShiftLeft<16>(pairs));
    odd = hn::BitCast(d, hn::And(pairs, hn::Set(BitsTag(), 0xffff0000u)));
  }
  // Widens a line of a row to float32. Writes the line's even values first, then its odd values.
  static HWY_INLINE void widen_line(const char* line, float* values) {
    Floats even, odd;
    for (size_t i = 0; i < kRowsPerTile; i += kLanes) {
      widen(hn::LoadU(BitsTag(), reinterpret_cast<const uint32_t*>(line) + i), even, odd);
      hn::Store(even, FloatTag(), values + i);
      hn::Store(odd, FloatTag(), values + kRowsPerTile + i);
    }
  }
  static HWY_INLINE Sums add(const float* value, Floats even, Floats odd, Sums sums) {
    const FloatTag d;
    sums = hn::MulAdd(hn::Set(d, value[0]), even, sums);
    return hn::MulAdd(hn::Set(d, value[kRowsPerTile]), odd, sums);
  }
};

#if HWY_NATIVE_DOT_BF16
struct NativeBf16 {
  static constexpr bool kOneInstruction = true;
  using Sums = Floats;
  static HWY_INLINE Sums zero() { return hn::Zero(FloatTag()); }
  static HWY_INLINE Sums add(Bits pair, Bits weights, Sums sums) {
    const FloatTag d;
    const hn::Repartition<hwy::bfloat16_t, FloatTag> db;
    auto unused = hn::Zero(d);
    return hn::ReorderWidenMulAccumulate(d, hn::BitCast(db, pair), hn::BitCast(db, weights), sums, unused);
  }
};
#endif

// Multiplies groups of four int8. The x86 instructions multiply unsigned bytes by signed bytes. On x86, each value of a
// row is therefore increased by 128 and stored as an unsigned byte.
struct PortableInt8 {
  static constexpr size_t kGroupBytes = kLeastGroupBytes;
  static constexpr bool kOneInstruction = false;
  using Sums = hn::Vec<SignedTag>;
  static HWY_INLINE Sums zero() { return hn::Zero(SignedTag()); }
  static HWY_INLINE Sums add(Bits row, Bits weights, Sums sums) {
    [[maybe_unused]] const SignedTag d;
#if HWY_TARGET == HWY_SCALAR
    int32_t sum = hn::GetLane(sums);
    const uint32_t group = hn::GetLane(row);
    const uint32_t columns = hn::GetLane(weights);
    for (int shift = 0; shift < 32; shift += 8) {
      const uint8_t byte = group >> shift & 0xff;
      sum +=
          (HWY_ARCH_X86 ? int32_t{byte} : int32_t{static_cast<int8_t>(byte)}) * static_cast<int8_t>(columns >> shift);
    }
    return hn::Set(d, sum);
#elif HWY_TARGET == HWY_NEON_WITHOUT_AES
    // The sum of two products fits into an int16.
    const int8x16_t values = vreinterpretq_s8_u32(row.raw), columns = vreinterpretq_s8_u32(weights.raw);
    const int16x8_t low = vmull_s8(vget_low_s8(values), vget_low_s8(columns));
    return Sums{vpadalq_s16(sums.raw, vpaddq_s16(low, vmull_high_s8(values, columns)))};
#else
    const hn::Repartition<int8_t, SignedTag> d8;
#if HWY_ARCH_X86
    const hn::RebindToUnsigned<decltype(d8)> du8;
    return hn::SumOfMulQuadAccumulate(d, hn::BitCast(du8, row), hn::BitCast(d8, weights), sums);
#else
    return hn::SumOfMulQuadAccumulate(d, hn::BitCast(d8, row), hn::BitCast(d8, weights), sums);
#endif
#endif
  }
  // Multiplies two lines of int4 weights, stored as 0 to 15, by signed rows, and adds the products to `sums`. The sum
  // of eight products fits into an int16.
  static HWY_INLINE Sums add_int4(const Bits (&weights)[2], const Bits (&rows)[2], Sums sums) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
    const hn::Repartition<int16_t, SignedTag> d16;
    const hn::Repartition<int8_t, SignedTag> d8;
    const hn::RebindToUnsigned<decltype(d8)> du8;
    const auto first = hn::SatWidenMulPairwiseAdd(d16, hn::BitCast(du8, weights[0]), hn::BitCast(d8, rows[0]));
    const auto second = hn::SatWidenMulPairwiseAdd(d16, hn::BitCast(du8, weights[1]), hn::BitCast(d8, rows[1]));
    return hn::Add(sums, hn::WidenMulPairwiseAdd(SignedTag(), hn::Add(first, second), hn::Set(d16, 1)));
#else
    return add(weights[1], rows[1], add(weights[0], rows[0], sums));
#endif
  }
};

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
// Multiplies groups of four int8 with VNNI. Calls the intrinsics directly, because Highway's targets with VNNI also
// require other instructions, which some processors with VNNI lack.
struct VnniInt8 {
  static constexpr bool kOneInstruction = true;
  using Sums = hn::Vec<SignedTag>;
  static HWY_INLINE Sums zero() { return hn::Zero(SignedTag()); }
  static HWY_INLINE Sums add(Bits row, Bits weights, Sums sums) {
#if HWY_TARGET <= HWY_AVX3_DL
    sums.raw = _mm512_dpbusd_epi32(sums.raw, row.raw, weights.raw);
#elif HWY_TARGET == HWY_AVX2
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums.raw) : "x"(row.raw), "x"(weights.raw));
#else
    asm("vpdpbusd %2, %1, %0" : "+v"(sums.raw) : "v"(row.raw), "v"(weights.raw));
#endif
    return sums;
  }
  static HWY_INLINE Sums add_int4(const Bits (&weights)[2], const Bits (&rows)[2], Sums sums) {
    return add(weights[1], rows[1], add(weights[0], rows[0], sums));
  }
};
#endif

// Returns the scales of one step of an int4 panel as float32, for the columns that begin at `column`.
HWY_INLINE Floats int4_scale(const char* panel, size_t column) {
  const hn::Rebind<hwy::float16_t, FloatTag> d16;
  return hn::PromoteTo(FloatTag(),
                       hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(panel + kTileBytes) + column));
}

}  // namespace HWY_NAMESPACE
}  // namespace vmoe
HWY_AFTER_NAMESPACE();

#endif  // VMOE_CORE_DOT_PRODUCTS_INL_H_
