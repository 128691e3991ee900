// Resampling exactly as in Pillow. One pass resizes along the rows, and the other pass resizes down the columns. If a
// picture shrinks, the filter is stretched so that every pixel counts. Coefficients are doubles rounded to fixed point,
// and both passes round their results to 8 bits. This file is compiled without fused multiply-adds, because they would
// round differently.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <deque>
#include <vector>

#include "sdk/resampling.h"

namespace vmoe::sdk {

namespace {

// Number of fraction bits in a coefficient. A sum has 32 bits, so 10 bits remain. Of these, 8 bits hold the pixel. The
// other 2 bits hold the sign and leave room for sums above the brightest pixel.
constexpr int kFractionBits = 22;
constexpr int32_t kOne = 1 << kFractionBits;

double linear(double distance) { return std::max(1.0 - std::abs(distance), 0.0); }

// Returns the weight that Keys' cubic convolution with a = -1/2 gives to a pixel at `distance`.
double cubic(double distance) {
  constexpr double kA = -0.5;
  const double x = std::abs(distance);
  if (x < 1) return ((kA + 2) * x - (kA + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * kA : 0.0;
}

struct Filter {
  double (*weight)(double distance);
  double reach;  // distance beyond which the weight is 0
};

// The source pixels that contribute to one pixel of a resized axis. `first` is the index of the first of these pixels,
// and `coefficients` are the fixed-point coefficients of this pixel and the pixels that follow it.
struct Taps {
  int64_t first = 0;
  std::vector<int32_t> coefficients;

  int64_t end() const { return first + static_cast<int64_t>(coefficients.size()); }
};

// Returns the taps for `count` pixels of a resized axis, starting at pixel `start`. The axis is resized from `source`
// to `size` pixels.
std::vector<Taps> all_taps(const Filter& filter, int64_t size, int64_t source, int64_t start, int64_t count) {
  const double scale = static_cast<double>(source) / static_cast<double>(size);
  const double stretch = std::max(scale, 1.0), reach = filter.reach * stretch;
  std::vector<Taps> found(static_cast<size_t>(count));
  for (Taps& taps : found) {
    const double center = (static_cast<double>(start++) + 0.5) * scale;
    taps.first = std::max<int64_t>(static_cast<int64_t>(std::floor(center - reach + 0.5)), 0);
    const int64_t end = std::min(static_cast<int64_t>(std::floor(center + reach + 0.5)), source);
    const auto weight = [&](int64_t pixel) {
      return filter.weight((static_cast<double>(pixel) - center + 0.5) * (1.0 / stretch));
    };
    double total = 0;
    for (int64_t pixel = taps.first; pixel < end; ++pixel) total += weight(pixel);
    taps.coefficients.reserve(static_cast<size_t>(end - taps.first));
    for (int64_t pixel = taps.first; pixel < end; ++pixel) {
      const double share = weight(pixel) / total * kOne;
      taps.coefficients.push_back(static_cast<int32_t>(share < 0 ? share - 0.5 : share + 0.5));
    }
  }
  return found;
}

// Converts a fixed-point sum to a pixel. The sum already includes one half, so the shift rounds to the nearest number.
// Negative sums are rounded in the same way and then clamped to 0.
uint8_t whole(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kFractionBits, 0, 255)); }

// Resizes one row along its length.
void resize_row(const uint8_t* row, int64_t channels, const std::vector<Taps>& columns, uint8_t* out) {
  for (const Taps& column : columns) {
    for (int64_t c = 0; c < channels; ++c) {
      const uint8_t* pixel = row + column.first * channels + c;
      int32_t sum = kOne / 2;
      for (const int32_t coefficient : column.coefficients) {
        sum += *pixel * coefficient;
        pixel += channels;
      }
      *out++ = whole(sum);
    }
  }
}

}  // namespace

void resample_as_pillow(const Pixels& pixels, const Geometry& geometry, const TakeRow& take) {
  const Window& source = geometry.source;
  const Window& target = geometry.target;
  const Filter filter = geometry.method == Method::kPillowBicubic ? Filter{cubic, 2} : Filter{linear, 1};
  const auto columns = all_taps(filter, geometry.width, source.width, target.left, target.width);
  const auto rows = all_taps(filter, geometry.height, source.height, target.top, target.height);
  const auto count = static_cast<size_t>((geometry.down_first ? source.width : target.width) * pixels.channels);
  std::vector<uint8_t> across(static_cast<size_t>(target.width * pixels.channels)), down(count);
  std::vector<float> result(across.size());
  std::deque<std::vector<int32_t>> sums;  // sums for unfinished result rows; the first is for row `done`
  size_t done = 0;
  for (int64_t y = rows[0].first; done < rows.size(); ++y) {
    while (done + sums.size() < rows.size() && rows[done + sums.size()].first <= y) sums.emplace_back(count, kOne / 2);
    const uint8_t* values = pixels.at(source.top + y, source.left);
    if (!geometry.down_first) {
      resize_row(values, pixels.channels, columns, across.data());
      values = across.data();
    }
    for (size_t i = 0; i < sums.size(); ++i) {
      const Taps& row = rows[done + i];
      const int32_t coefficient = row.coefficients[static_cast<size_t>(y - row.first)];
      for (size_t j = 0; j < count; ++j) sums[i][j] += values[j] * coefficient;
    }
    for (; !sums.empty() && rows[done].end() == y + 1; ++done, sums.pop_front()) {
      std::transform(sums[0].begin(), sums[0].end(), down.begin(), whole);
      if (geometry.down_first) resize_row(down.data(), pixels.channels, columns, across.data());
      const std::vector<uint8_t>& finished = geometry.down_first ? across : down;
      std::copy(finished.begin(), finished.end(), result.begin());
      take(result.data());
    }
  }
}

}  // namespace vmoe::sdk
