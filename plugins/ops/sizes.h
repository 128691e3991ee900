// The shapes of a node's inputs. They are checked against the node's op and against each other.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "ops/op_spec.h"

namespace vmoe::ops {

struct Shape {
  static constexpr size_t kMaxRank = 8;

  std::array<int64_t, kMaxRank> sizes{};
  int64_t rank = 0;  // if it exceeds kMaxRank, `sizes` has only the first dimensions

  size_t elements() const {
    size_t count = 1;
    for (size_t i = 0; i < static_cast<size_t>(rank); ++i) count *= static_cast<size_t>(sizes[i]);
    return count;
  }
};

// Returns a shape as text, such as "[2, 3]".
std::string shape_text(const Shape& shape);

// The sizes of an op's dimensions, collected from its inputs.
class Sizes {
 public:
  Sizes() { sizes_.fill(kUnknown); }

  // Adds the sizes of an input's dimensions. Throws OpError in these cases:
  // - the rank differs from the rank in `value`
  // - a size is negative or does not fit into an int32
  // - a dimension already has another known size
  // `type` is the input's element type.
  void add(const ValueSpec& value, const Shape& shape, ElementType type = ElementType::kFloat32);

  void set(char dim, int64_t size) { sizes_[index_of(dim)] = size; }

  bool has(char dim) const { return sizes_[index_of(dim)] != kUnknown; }
  size_t operator[](char dim) const { return static_cast<size_t>(sizes_[index_of(dim)]); }

  // Returns the shape of a value whose dimensions are all known.
  Shape shape_of(const ValueSpec& value) const;

 private:
  static constexpr int64_t kUnknown = -1;
  static size_t index_of(char dim) { return static_cast<unsigned char>(dim) & 127; }

  std::array<int64_t, 128> sizes_;
  std::array<const char*, 128> sources_{};
};

}  // namespace vmoe::ops
