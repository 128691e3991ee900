// The keys by which token merging compares tokens.
#pragma once

#include <cstddef>

namespace vmoe {

// Keys of an image's tokens, float32. Head h of token t is at values[t * token_stride + h * size].
struct MergingKeys {
  const float* values = nullptr;
  size_t token_stride = 0;
  size_t heads = 0;
  size_t size = 0;      // D / H
  bool summed = false;  // whether `values` are sums over the heads, added up in the order of the heads
};

}  // namespace vmoe
