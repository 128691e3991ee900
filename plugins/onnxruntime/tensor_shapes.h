// Tensors as the kernels see them, and shapes held against an op's table.
#pragma once

#include <onnxruntime_c_api.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/float_type.h"
#include "onnxruntime/op_spec.h"

namespace vmoe::ort {

// A tensor's memory on the CPU; not owned.
struct Tensor {
  const void* data = nullptr;
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  std::vector<int64_t> shape;

  template <class T>
  const T* as() const {
    return static_cast<const T*>(data);
  }

  // Of a tensor that is float32, float16 or bfloat16.
  FloatType float_type() const {
    return type == kFloat16 ? FloatType::kFloat16 : type == kBfloat16 ? FloatType::kBfloat16 : FloatType::kFloat32;
  }
};

// Throws OpError for a value that is no tensor on the CPU.
Tensor ReadTensor(const OrtApi& api, const OrtValue* value, const char* name);

// "[2, 3]"
std::string ShapeText(const std::vector<int64_t>& shape);

// The sizes of an op's dimensions, gathered from its inputs.
class Sizes {
 public:
  // Throws OpError if the tensor's rank or type isn't the spec's, or if a size contradicts one that is known.
  void Add(const ValueSpec& spec, const Tensor& tensor);

  void Set(char dim, int64_t size);

  size_t operator[](char dim) const { return static_cast<size_t>(sizes_[static_cast<unsigned char>(dim)]); }

  std::vector<int64_t> Shape(const ValueSpec& spec) const;

 private:
  std::array<int64_t, 128> sizes_ = Unknown();
  std::array<const char*, 128> sources_{};

  static std::array<int64_t, 128> Unknown() {
    std::array<int64_t, 128> sizes;
    sizes.fill(-1);
    return sizes;
  }
};

}  // namespace vmoe::ort
