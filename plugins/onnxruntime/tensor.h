// Tensors as the kernels see them.
#pragma once

#include <onnxruntime_c_api.h>

#include <optional>

#include "core/element_type.h"
#include "ops/sizes.h"

namespace vmoe::ort {

// A tensor's memory, where the kernel runs; not owned.
struct Tensor {
  const void* data = nullptr;  // null: left out
  ElementType type = ElementType::kFloat32;
  ops::Shape shape;

  template <class T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
};

// Nothing for a type that no op takes.
std::optional<ElementType> element_type_of(ONNXTensorElementDataType type);
ONNXTensorElementDataType onnx_type_of(ElementType type);

// "float64"
const char* name_of(ONNXTensorElementDataType type);

// Throws OpError for a value that is no tensor of a type that ops take.
Tensor read_tensor(const OrtApi& api, const OrtValue* value, const char* name);

}  // namespace vmoe::ort
