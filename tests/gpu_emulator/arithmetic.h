// Arithmetic of PTX on 64-bit registers. A register contains an integer, or the bits of a floating-point number, in its
// lowest bits. Floating-point operations are IEEE 754 with rounding to nearest. If an operation makes a NaN, its bits
// are those that PTX specifies.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace gpu_emulator {

inline uint32_t u32(uint64_t bits) { return static_cast<uint32_t>(bits); }
inline int32_t s32(uint64_t bits) { return static_cast<int32_t>(u32(bits)); }
inline int64_t s64(uint64_t bits) { return static_cast<int64_t>(bits); }
inline uint64_t from_signed(int64_t value) { return static_cast<uint64_t>(value); }

inline float f32(uint64_t bits) {
  const uint32_t low = u32(bits);
  float value;
  std::memcpy(&value, &low, sizeof(value));
  return value;
}

inline uint64_t bits_of(float value) {
  constexpr uint32_t kNan = 0x7fffffff;
  if (std::isnan(value)) return kNan;
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// max.f32: a number is larger than NaN, and 0 is larger than -0.
inline float max_f32(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) ? b : a;
  if (a == b) return std::signbit(a) ? b : a;
  return std::max(a, b);
}

// cvt.rzi.s32.f32: rounds towards zero, and limits the result to the range of int32. NaN becomes 0.
inline int32_t int_of(float value) {
  if (std::isnan(value)) return 0;
  if (value >= 0x1p31f) return INT32_MAX;
  if (value < -0x1p31f) return INT32_MIN;
  return static_cast<int32_t>(value);
}

inline float float_of_half(uint64_t bits) {
  const auto low = static_cast<uint16_t>(bits);
  _Float16 half;
  std::memcpy(&half, &low, sizeof(half));
  return half;
}

inline uint16_t half_of(float value) {
  if (std::isnan(value)) return 0x7fff;
  const auto half = static_cast<_Float16>(value);
  uint16_t bits;
  std::memcpy(&bits, &half, sizeof(bits));
  return bits;
}

inline uint16_t half_towards_zero(float value) {
  const uint16_t nearest = half_of(value);
  const bool is_too_large = std::fabs(float_of_half(nearest)) > std::fabs(value);
  return static_cast<uint16_t>(is_too_large ? nearest - 1 : nearest);
}

inline uint16_t bfloat_of(float value) {
  if (std::isnan(value)) return 0x7fff;
  const uint32_t bits = u32(bits_of(value));
  const uint32_t odd = bits >> 16 & 1;  // a tie is rounded to the even neighbour
  return static_cast<uint16_t>((bits + 0x7fff + odd) >> 16);
}

// prmt: each 4 bits of `selector` select one of the bytes of b and a (a has the lower ones). If the highest of these
// bits is set, the sign of that byte is repeated 8 times.
inline uint32_t permute(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  uint32_t result = 0;
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t choice = selector >> (4 * i) & 15;
    const auto byte = static_cast<uint32_t>(bytes >> (8 * (choice & 7)) & 255);
    const uint32_t sign = byte > 127 ? 255 : 0;
    result |= (choice > 7 ? sign : byte) << (8 * i);
  }
  return result;
}

// bfi: replaces `length` bits of `into`, from bit `first` on, with the lowest bits of `field`. A register has `width`
// bits, and bits beyond them are omitted.
inline uint64_t insert_bits(uint64_t field, uint64_t into, uint64_t first, uint64_t length, uint32_t width) {
  first &= 255;
  const uint64_t end = std::min<uint64_t>(first + (length & 255), width);
  for (uint64_t i = first; i < end; ++i) {
    const uint64_t bit = field >> (i - first) & 1;
    into = (into & ~(uint64_t{1} << i)) | bit << i;
  }
  return into;
}

}  // namespace gpu_emulator
