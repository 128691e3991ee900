// IEEE 754 half precision as bits.
#pragma once

#include <cstdint>
#include <cstring>

namespace vmoe {

using Fp16 = uint16_t;

inline float from_fp16(Fp16 value) {
  const uint32_t sign = static_cast<uint32_t>(value & 0x8000u) << 16;
  const uint32_t rest = value & 0x7fffu;
  uint32_t bits;
  if (rest >= 0x7c00u) {
    bits = 0x7f800000u | (rest & 0x3ffu) << 13;  // infinity, or a NaN with its payload
  } else if (rest >= 0x400u) {
    bits = (rest << 13) + (112u << 23);  // changes the exponent's bias from 15 to 127
  } else {
    const float magnitude = static_cast<float>(rest) * 0x1p-24f;  // exact
    std::memcpy(&bits, &magnitude, sizeof(bits));
  }
  bits |= sign;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

// Returns the half-precision value nearest to `value`. Ties are rounded to even. Values that are too large become
// infinity, and a NaN stays a NaN.
inline Fp16 to_fp16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const auto sign = static_cast<Fp16>((bits >> 16) & 0x8000u);
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return static_cast<Fp16>(sign | 0x7e00u);
  if (bits >= 0x477ff000u) return static_cast<Fp16>(sign | 0x7c00u);  // 65520 and more
  if (bits >= 0x38800000u) {                                          // 2^-14, the smallest normal half
    return static_cast<Fp16>(sign | ((bits - (112u << 23) + 0xfffu + ((bits >> 13) & 1u)) >> 13));
  }
  // Subnormal half-precision values are multiples of 2^-24, which is also the spacing of float32 values between 0.5 and
  // 1. Adding 0.5 therefore rounds the magnitude to a subnormal half-precision value.
  float magnitude;
  std::memcpy(&magnitude, &bits, sizeof(magnitude));
  magnitude += 0.5f;
  std::memcpy(&bits, &magnitude, sizeof(bits));
  return static_cast<Fp16>(sign | (bits - 0x3f000000u));
}

}  // namespace vmoe
