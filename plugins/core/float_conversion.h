// Values of any type of float as float32, and back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/bfloat16.h"
#include "core/element_type.h"
#include "core/float16.h"

namespace vmoe {

// wide[0:count] = values[0:count], which are float32, float16 or bfloat16; exact.
inline void widen(ElementType type, const void* values, size_t count, float* wide) {
  if (type == ElementType::kFloat32) {
    std::memcpy(wide, values, count * sizeof(float));
    return;
  }
  const auto* half = static_cast<const uint16_t*>(values);
  if (type == ElementType::kFloat16) {
    for (size_t i = 0; i < count; ++i) wide[i] = from_fp16(half[i]);
  } else {
    for (size_t i = 0; i < count; ++i) wide[i] = from_bf16(half[i]);
  }
}

// values[0:count] = wide[0:count] in float32, float16 or bfloat16, to nearest, ties to even; a NaN stays a NaN.
inline void narrow(ElementType type, const float* wide, size_t count, void* values) {
  if (type == ElementType::kFloat32) {
    std::memcpy(values, wide, count * sizeof(float));
    return;
  }
  auto* half = static_cast<uint16_t*>(values);
  if (type == ElementType::kFloat16) {
    for (size_t i = 0; i < count; ++i) half[i] = to_fp16(wide[i]);
  } else {
    for (size_t i = 0; i < count; ++i) half[i] = to_bf16(wide[i]);
  }
}

}  // namespace vmoe
