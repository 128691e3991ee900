#include "tensorrt/sizes.h"

#include <algorithm>
#include <cstring>

#include "tensorrt/op_error.h"

namespace vmoe::tensorrt {

std::string ShapeText(const nvinfer1::Dims& shape) {
  std::string text = "[";
  for (int32_t i = 0; i < std::min<int32_t>(shape.nbDims, nvinfer1::Dims::MAX_DIMS); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape.d[i]);
  }
  return text + "]";
}

void Sizes::Add(const char* name, const char* dims, const nvinfer1::Dims& shape) {
  const size_t rank = std::strlen(dims);
  if (shape.nbDims < 0 || static_cast<size_t>(shape.nbDims) != rank) {
    throw OpError(std::string(name) + " must have " + std::to_string(rank) + " dimensions, not " +
                  std::to_string(shape.nbDims));
  }
  for (size_t i = 0; i < rank; ++i) {
    const int64_t size = shape.d[i];
    if (size < 0 || size > INT32_MAX) {
      throw OpError(std::string(name) + " has shape " + ShapeText(shape) + ", but sizes must be known and fit 32 bits");
    }
    int64_t& known = sizes_[Index(dims[i])];
    if (known != kUnknown && known != size) {
      throw OpError(std::string(name) + " has shape " + ShapeText(shape) + ", but " + dims[i] + " is " +
                    std::to_string(known) + " in the inputs before it");
    }
    known = size;
  }
}

}  // namespace vmoe::tensorrt
