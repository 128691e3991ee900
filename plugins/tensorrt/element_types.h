// The element types of tensors, as TensorRT names them.
#pragma once

#include <NvInferRuntime.h>

#include <algorithm>
#include <iterator>
#include <optional>

#include "core/element_type.h"

namespace vmoe::tensorrt {

using nvinfer1::DataType;

// In the order of ElementType.
inline constexpr DataType kDataTypes[] = {DataType::kFLOAT, DataType::kHALF,  DataType::kBF16, DataType::kINT8,
                                          DataType::kINT4,  DataType::kINT32, DataType::kINT64};
static_assert(std::size(kDataTypes) == std::size(kElementTypes));

// Returns the element type of a TensorRT type, or none if no op accepts that type.
inline std::optional<ElementType> element_type_of(DataType type) {
  const auto* found = std::find(std::begin(kDataTypes), std::end(kDataTypes), type);
  if (found == std::end(kDataTypes)) return std::nullopt;
  return static_cast<ElementType>(found - kDataTypes);
}

inline DataType data_type_of(ElementType type) { return kDataTypes[static_cast<size_t>(type)]; }

}  // namespace vmoe::tensorrt
