// The sizes of an op's dimensions, gathered from its inputs.
#pragma once

#include <NvInferRuntime.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace vmoe::tensorrt {

// "[2, 3]"
std::string ShapeText(const nvinfer1::Dims& shape);

class Sizes {
 public:
  Sizes() { sizes_.fill(kUnknown); }

  // Takes the sizes of an input whose dimensions have these letters. Throws OpError where its rank is another, or where
  // a size is negative, doesn't fit an int32 or contradicts an earlier input's.
  void Add(const char* name, const char* dims, const nvinfer1::Dims& shape);

  void Set(char dim, size_t size) { sizes_[Index(dim)] = static_cast<int64_t>(size); }

  bool has(char dim) const { return sizes_[Index(dim)] != kUnknown; }
  size_t operator[](char dim) const { return static_cast<size_t>(sizes_[Index(dim)]); }

 private:
  static constexpr int64_t kUnknown = -1;
  static size_t Index(char dim) { return static_cast<unsigned char>(dim) & 127; }

  std::array<int64_t, 128> sizes_;
};

}  // namespace vmoe::tensorrt
