// Resizes pictures as the preprocessing steps prescribe. The values are bit for bit those of TensorFlow's kernels or of
// Pillow. Keeps only a few rows of a picture in memory at a time.
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

// Resizes `geometry.source` and passes the rows of `geometry.target` to `take`, from the top down. Each row is
// float32[width * channels] in 0..255, not rounded, and is valid until `take` returns.
void resample(const Pixels& pixels, const Geometry& geometry, const TakeRow& take);

// Does the same as `resample`, but with Pillow's methods. The values equal Pillow's results, so they are whole numbers
// in 0..255.
void resample_as_pillow(const Pixels& pixels, const Geometry& geometry, const TakeRow& take);

}  // namespace vmoe::sdk
