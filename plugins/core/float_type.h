// Which float a tensor holds, and values of any of them as float32.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/bfloat16.h"
#include "core/float16.h"

namespace vmoe {

enum class FloatType : int32_t { kFloat32, kFloat16, kBfloat16 };

constexpr size_t BytesOf(FloatType type) { return type == FloatType::kFloat32 ? 4 : 2; }

// wide[0:count] = values[0:count], which are of `type`; exact.
inline void Widen(FloatType type, const void* values, size_t count, float* wide) {
  const auto* half = static_cast<const uint16_t*>(values);
  switch (type) {
    case FloatType::kFloat32: std::memcpy(wide, values, count * sizeof(float)); break;
    case FloatType::kFloat16:
      for (size_t i = 0; i < count; ++i) wide[i] = FromFp16(half[i]);
      break;
    case FloatType::kBfloat16:
      for (size_t i = 0; i < count; ++i) wide[i] = FromBf16(half[i]);
      break;
  }
}

// values[0:count] = wide[0:count] in `type`, to nearest, ties to even; a NaN stays a NaN.
inline void Narrow(FloatType type, const float* wide, size_t count, void* values) {
  auto* half = static_cast<uint16_t*>(values);
  switch (type) {
    case FloatType::kFloat32: std::memcpy(values, wide, count * sizeof(float)); break;
    case FloatType::kFloat16:
      for (size_t i = 0; i < count; ++i) half[i] = ToFp16(wide[i]);
      break;
    case FloatType::kBfloat16:
      for (size_t i = 0; i < count; ++i) half[i] = ToBf16(wide[i]);
      break;
  }
}

}  // namespace vmoe
