// The types of elements that tensors have.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vmoe {

enum class ElementType : int32_t { kFloat32, kFloat16, kBfloat16, kInt8 };

constexpr size_t BytesOf(ElementType type) {
  return type == ElementType::kFloat32 ? 4 : type == ElementType::kInt8 ? 1 : 2;
}

}  // namespace vmoe
