// Conversions between the element types of tensors and TensorRT's data types.
#pragma once

#include <NvInferRuntime.h>

#include <algorithm>
#include <iterator>
#include <optional>

#include "core/element_type.h"

namespace vmoe::tensorrt {

using nvinfer1::DataType;

// TensorRT's data types, in the order of ElementType.
inline constexpr DataType kDataTypes[] = {DataType::kFLOAT, DataType::kHALF,  DataType::kBF16, DataType::kINT8,
                                          DataType::kINT4,  DataType::kINT32, DataType::kINT64};
static_assert(std::size(kDataTypes) == std::size(kElementTypes));

// Returns the element type for a TensorRT data type, or nullopt if no op accepts that data type.
inline std::optional<ElementType> element_type_of(DataType type) {
  const auto* found = std::find(std::begin(kDataTypes), std::end(kDataTypes), type);
  if (found == std::end(kDataTypes)) return std::nullopt;
  return static_cast<ElementType>(found - kDataTypes);
}

inline DataType data_type_of(ElementType type) { return kDataTypes[static_cast<size_t>(type)]; }

}  // namespace vmoe::tensorrt
