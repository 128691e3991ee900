// Resampling exactly as in TensorFlow's kernels. The code performs the same float32 operations as these kernels, in the
// same order: first along the rows, then down the columns. This file is compiled without fused multiply-adds, because
// they would round differently.
#include "sdk/resampling.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace vmoe::sdk {

namespace {

// The two neighbouring pixels of a position along one axis.
struct Neighbours {
  int64_t low = 0, high = 0;
  float share = 0;  // weight of `high`
};

std::vector<Neighbours> neighbours(int64_t size, int64_t source, int64_t start, int64_t count) {
  const float scale = static_cast<float>(source) / static_cast<float>(size);
  std::vector<Neighbours> found;
  found.reserve(static_cast<size_t>(count));
  for (int64_t i = start; i < start + count; ++i) {
    const float position = (static_cast<float>(i) + 0.5F) * scale - 0.5F;
    const float floor = std::floor(position);
    found.push_back({std::clamp<int64_t>(static_cast<int64_t>(floor), 0, source - 1),
                     std::clamp<int64_t>(static_cast<int64_t>(std::ceil(position)), 0, source - 1), position - floor});
  }
  return found;
}

void bilinear(const Pixels& pixels, const Geometry& geometry, const TakeRow& take) {
  const Window& source = geometry.source;
  const Window& target = geometry.target;
  const auto rows = neighbours(geometry.height, source.height, target.top, target.height);
  const auto columns = neighbours(geometry.width, source.width, target.left, target.width);
  std::vector<float> result(static_cast<size_t>(target.width * pixels.channels));
  for (const Neighbours& y : rows) {
    float* out = result.data();
    for (const Neighbours& x : columns) {
      const uint8_t* top_left = pixels.at(source.top + y.low, source.left + x.low);
      const uint8_t* top_right = pixels.at(source.top + y.low, source.left + x.high);
      const uint8_t* bottom_left = pixels.at(source.top + y.high, source.left + x.low);
      const uint8_t* bottom_right = pixels.at(source.top + y.high, source.left + x.high);
      for (int64_t c = 0; c < pixels.channels; ++c) {
        const auto left = static_cast<float>(top_left[c]), low = static_cast<float>(bottom_left[c]);
        const float top = left + (static_cast<float>(top_right[c]) - left) * x.share;
        const float bottom = low + (static_cast<float>(bottom_right[c]) - low) * x.share;
        *out++ = top + (bottom - top) * y.share;
      }
    }
    take(result.data());
  }
}

// The source pixels that one cell of a resized axis covers. `first` is the index of the first pixel, and `weights` are
// the covered shares of this pixel and the pixels that follow it.
struct Overlap {
  int64_t first = 0;
  std::vector<float> weights;
};

Overlap overlap(float scale, int64_t cell) {
  const float low = static_cast<float>(cell) * scale;
  const float high = static_cast<float>(cell + 1) * scale;
  Overlap found;
  found.first = static_cast<int64_t>(std::floor(low));
  const int64_t end = std::max(static_cast<int64_t>(std::ceil(high)), found.first + 1);
  found.weights.reserve(static_cast<size_t>(end - found.first));
  for (int64_t i = found.first; i < end; ++i) {
    const auto begin = static_cast<float>(i), after = static_cast<float>(i + 1);
    if (begin < low) {
      found.weights.push_back(after > high ? scale : after - low);
    } else {
      found.weights.push_back(after > high ? high - begin : 1.0F);
    }
  }
  return found;
}

// Returns the overlaps for `count` cells of a resized axis, starting at cell `start`.
std::vector<Overlap> overlaps(float scale, int64_t start, int64_t count) {
  std::vector<Overlap> found;
  for (int64_t i = start; i < start + count; ++i) found.push_back(overlap(scale, i));
  return found;
}

void by_area(const Pixels& pixels, const Geometry& geometry, const TakeRow& take) {
  const Window& source = geometry.source;
  const Window& target = geometry.target;
  const float across = static_cast<float>(source.width) / static_cast<float>(geometry.width);
  const float down = static_cast<float>(source.height) / static_cast<float>(geometry.height);
  const float whole = 1.0F / (down * across);
  const std::vector<Overlap> columns = overlaps(across, target.left, target.width);
  std::vector<float> sum(static_cast<size_t>(target.width * pixels.channels));
  // Resizes one row of the picture to the target's width, and adds `weight` times that row to `sum`.
  const auto add = [&](int64_t row, float weight) {
    const int64_t y = source.top + std::min(row, source.height - 1);
    float* out = sum.data();
    for (const Overlap& column : columns) {
      for (int64_t c = 0; c < pixels.channels; ++c) {
        float narrowed = 0;
        for (size_t t = 0; t < column.weights.size(); ++t) {
          const int64_t x = std::min(column.first + static_cast<int64_t>(t), source.width - 1);
          narrowed += static_cast<float>(pixels.at(y, source.left + x)[c]) * column.weights[t];
        }
        *out++ += narrowed * weight;
      }
    }
  };
  for (const Overlap& row : overlaps(down, target.top, target.height)) {
    std::fill(sum.begin(), sum.end(), 0.0F);
    for (size_t t = 0; t < row.weights.size(); ++t) add(row.first + static_cast<int64_t>(t), row.weights[t]);
    for (float& value : sum) value *= whole;
    take(sum.data());
  }
}

}  // namespace

void resample(const Pixels& pixels, const Geometry& geometry, const TakeRow& take) {
  if (geometry.method == Method::kArea) return by_area(pixels, geometry, take);
  if (geometry.method == Method::kBilinear) return bilinear(pixels, geometry, take);
  if (geometry.method != Method::kNone) return resample_as_pillow(pixels, geometry, take);
  const Window& target = geometry.target;
  std::vector<float> row(static_cast<size_t>(target.width * pixels.channels));
  for (int64_t i = 0; i < target.height; ++i) {
    const uint8_t* first = pixels.at(target.top + i, target.left);
    std::copy(first, first + row.size(), row.begin());
    take(row.data());
  }
}

}  // namespace vmoe::sdk
