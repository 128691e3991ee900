// Resizes pictures as the steps say, bit for bit, and holds no more of one than a few rows.
#pragma once

#include <cstdint>
#include <functional>

#include "sdk/preprocessing.h"

namespace vmoe::sdk {

// uint8[height,width,channels], contiguous, not owned.
struct Pixels {
  const uint8_t* data = nullptr;
  int64_t height = 0, width = 0, channels = 0;

  const uint8_t* at(int64_t row, int64_t column) const { return data + (row * width + column) * channels; }
};

using TakeRow = std::function<void(const float* row)>;

// Gives the target of a geometry row by row from the top: float32[width * channels] of what is kept, in 0..255 and not
// rounded. The row lives until the call returns.
void resample(const Pixels& pixels, const Geometry& geometry, const TakeRow& take);

// The same by Pillow's methods, to its grey level; the values are whole.
void resample_as_pillow(const Pixels& pixels, const Geometry& geometry, const TakeRow& take);

}  // namespace vmoe::sdk
