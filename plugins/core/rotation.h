// Rotary positions: rotates pairs of a head's columns by angles that depend on the token's coordinates.
#pragma once

#include <cstddef>

#include "core/kernels.h"
#include "core/task_runner.h"
#include "core/workspace.h"

namespace vmoe {

// The angle of pair p of each head, its columns 2 p and 2 p + 1, is the sum over c of coordinates[c] * frequencies[c,
// p]. A token with zeros as coordinates is not rotated.
struct Rotation {
  const float* coordinates = nullptr;  // f32[N, T, C], or none: nothing is rotated
  const float* frequencies = nullptr;  // f32[C, D / H / 2]
  size_t count = 0;                    // C
};

// The sines and cosines of a call, in the order in which rows are multiplied by them.
class RotationTable {
 public:
  // For N images of T tokens, D columns and H heads. An image with the same coordinates as the previous image shares
  // its part of the table. `memory` outlives this object. Throws std::bad_alloc.
  RotationTable(const Kernels& kernels, const Rotation& rotation, size_t images, size_t tokens, size_t hidden,
                size_t heads, Workspace& memory);

  explicit operator bool() const { return cosines_ != nullptr; }
  const float* cosines() const { return cosines_; }
  const float* sines() const { return sines_; }
  // Columns of a row of the table, a multiple of 32: the columns of one head, or of all heads.
  size_t period() const { return period_; }
  // Where a token's row begins.
  size_t place(size_t image, size_t token) const { return (first_[image] + token) * period_; }

  // Rotates the rows f32[D] of the first `rows` tokens of each image, in place.
  void rotate(const Kernels& kernels, float* x, size_t images, size_t rows, size_t hidden,
              const TaskRunner& runner) const;

  // Rotates `count` columns from `column` on, in the rows f32[hidden] of the first `rows` tokens of an image. In place,
  // on the calling thread.
  void rotate_columns(const Kernels& kernels, float* x, size_t image, size_t rows, size_t hidden, size_t column,
                      size_t count) const;

 private:
  float* cosines_ = nullptr;  // f32[rows, period]
  float* sines_ = nullptr;    // f32[rows, period], the first of each two negated
  size_t* first_ = nullptr;   // [N], row of an image's first token
  size_t period_ = 0;
};

}  // namespace vmoe
