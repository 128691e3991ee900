// The types of elements that tensors have.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vmoe {

enum class ElementType : int32_t { kFloat32, kFloat16, kBfloat16, kInt8, kInt4, kInt32, kInt64 };

// Of one element; int4 are stored two to a byte, and one of them has a byte where it is computed with.
constexpr size_t bytes_of(ElementType type) {
  switch (type) {
    case ElementType::kFloat32:
    case ElementType::kInt32: return 4;
    case ElementType::kFloat16:
    case ElementType::kBfloat16: return 2;
    case ElementType::kInt8:
    case ElementType::kInt4: return 1;
    case ElementType::kInt64: return 8;
  }
  return 0;
}

// "float32"
constexpr const char* name_of(ElementType type) {
  switch (type) {
    case ElementType::kFloat32: return "float32";
    case ElementType::kFloat16: return "float16";
    case ElementType::kBfloat16: return "bfloat16";
    case ElementType::kInt8: return "int8";
    case ElementType::kInt4: return "int4";
    case ElementType::kInt32: return "int32";
    case ElementType::kInt64: return "int64";
  }
  return "";
}

}  // namespace vmoe
