// The element types of tensors.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vmoe {

enum class ElementType : int32_t { kFloat32, kFloat16, kBfloat16, kInt8, kInt4, kInt32, kInt64 };

struct ElementTypeSpec {
  const char* name;
  size_t bytes;  // of one element during computation: 1 for int4, although storage packs two int4 into a byte
  int32_t onnx;  // the type's number in ONNX and ONNX Runtime
};

// One entry for each element type, in the order of ElementType.
inline constexpr ElementTypeSpec kElementTypes[] = {{"float32", 4, 1}, {"float16", 2, 10}, {"bfloat16", 2, 16},
                                                    {"int8", 1, 3},    {"int4", 1, 22},    {"int32", 4, 6},
                                                    {"int64", 8, 7}};

constexpr size_t bytes_of(ElementType type) { return kElementTypes[static_cast<size_t>(type)].bytes; }
constexpr const char* name_of(ElementType type) { return kElementTypes[static_cast<size_t>(type)].name; }

}  // namespace vmoe
