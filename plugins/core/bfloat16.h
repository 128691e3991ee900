// Converts between float32 and bfloat16. A bfloat16 number is stored as its bits, which are the upper half of a
// float32.
#pragma once

#include <cstdint>
#include <cstring>

namespace vmoe {

using Bf16 = uint16_t;

// Returns the bfloat16 nearest to `value`; ties are rounded to even. A NaN stays a NaN.
inline Bf16 to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<Bf16>((bits >> 16) | 0x40u);
  return static_cast<Bf16>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline float from_bf16(Bf16 value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

}  // namespace vmoe
