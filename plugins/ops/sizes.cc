#include "ops/sizes.h"

#include <algorithm>
#include <cstring>

namespace vmoe::ops {

std::string shape_text(const Shape& shape) {
  const int64_t kept = std::min(shape.rank, static_cast<int64_t>(Shape::kMaxRank));
  std::string text = "[";
  for (int64_t i = 0; i < kept; ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape.sizes[static_cast<size_t>(i)]);
  return text + (kept < shape.rank ? ", ...]" : "]");
}

void Sizes::add(const ValueSpec& value, const Shape& shape, ElementType type) {
  const bool grouped = value.grouped_dims != nullptr && type == ElementType::kFloat16;
  const char* const dims = grouped ? value.grouped_dims : value.dims;
  const auto has = [&] { return std::string(value.name) + " has shape " + shape_text(shape); };
  const size_t rank = std::strlen(dims);
  if (shape.rank != static_cast<int64_t>(rank)) {
    throw OpError(has() + ", not the " + std::to_string(rank) + " dimensions " + dims);
  }
  for (size_t i = 0; i < rank; ++i) {
    const char dim = dims[i];
    const int64_t size = shape.sizes[i];
    if (size < 0 || size > INT32_MAX) throw OpError(has() + ", but sizes must be known and fit 32 bits");
    if (dim == '1') {
      if (size != 1) throw OpError(has() + ", not [1]");
      continue;
    }
    int64_t& known = sizes_[index_of(dim)];
    const char*& source = sources_[index_of(dim)];
    if (known == kUnknown) {
      known = size;
      source = value.name;
    } else if (known != size) {
      throw OpError(has() + ", but " + dim + " is " + std::to_string(known) +
                    (source == nullptr ? "" : std::string(" in ") + source));
    }
  }
}

Shape Sizes::shape_of(const ValueSpec& value) const {
  Shape shape;
  for (const char* dim = value.dims; *dim != '\0'; ++dim) {
    shape.sizes[static_cast<size_t>(shape.rank++)] = *dim == '1' ? 1 : sizes_[index_of(*dim)];
  }
  return shape;
}

}  // namespace vmoe::ops
