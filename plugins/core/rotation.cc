#include "core/rotation.h"

#include <algorithm>
#include <cstring>

#include "core/tiles.h"

namespace vmoe {

RotationTable::RotationTable(const Kernels& kernels, const Rotation& rotation, size_t images, size_t tokens,
                             size_t hidden, size_t heads, Workspace& memory) {
  if (rotation.coordinates == nullptr) return;
  const size_t size = hidden / heads, numbers = tokens * rotation.count;
  period_ = size % kPanelColumns == 0 ? size : round_up(hidden, kPanelColumns);
  first_ = memory.take<size_t>(images);
  size_t tables = 0;
  const auto is_as_before = [&](size_t image) {
    const float* mine = rotation.coordinates + image * numbers;
    return image > 0 && std::memcmp(mine, mine - numbers, numbers * sizeof(float)) == 0;
  };
  for (size_t image = 0; image < images; ++image) {
    if (!is_as_before(image)) ++tables;
    first_[image] = (tables - 1) * tokens;
  }
  cosines_ = memory.take<float>(tables * tokens * period_);
  sines_ = memory.take<float>(tables * tokens * period_);
  for (size_t image = 0; image < images; ++image) {
    if (is_as_before(image)) continue;
    for (size_t token = 0; token < tokens; ++token) {
      float* cosines = cosines_ + place(image, token);
      float* sines = sines_ + place(image, token);
      kernels.angles_to_table(rotation.coordinates + (image * tokens + token) * rotation.count, rotation.count,
                              rotation.frequencies, size / 2, cosines, sines);
      for (size_t column = size; column < period_; ++column) {
        cosines[column] = cosines[column - size];
        sines[column] = sines[column - size];
      }
    }
  }
}

void RotationTable::rotate(const Kernels& kernels, float* x, size_t images, size_t rows, size_t hidden,
                           const TaskRunner& runner) const {
  if (cosines_ == nullptr) return;
  parallel_for(runner, images, [&](size_t image) {
    for (size_t column = 0; column < hidden; column += period_) {
      const size_t count = std::min(period_, hidden - column);
      rotate_columns(kernels, x + image * rows * hidden, image, rows, hidden, column, count);
    }
  });
}

void RotationTable::rotate_columns(const Kernels& kernels, float* x, size_t image, size_t rows, size_t hidden,
                                   size_t column, size_t count) const {
  if (cosines_ == nullptr) return;
  for (size_t row = 0; row < rows; ++row) {
    const size_t at = place(image, row) + column % period_;
    float* values = x + row * hidden + column;
    kernels.rotate_row(values, cosines_ + at, sines_ + at, count, values);
  }
}

}  // namespace vmoe
