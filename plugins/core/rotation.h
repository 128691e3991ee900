// Rotary positions: pairs of a head's columns turn by angles of their token's coordinates.
#pragma once

#include <cstddef>

#include "core/kernels.h"
#include "core/task_runner.h"
#include "core/workspace.h"

namespace vmoe {

// Pair p of each head, its columns 2 p and 2 p + 1, turns by the sum over c of coordinates[c] * frequencies[c, p]. A
// token whose coordinates are zero is not rotated.
struct Rotation {
  const float* coordinates = nullptr;  // f32[N, T, C], or none: nothing is rotated
  const float* frequencies = nullptr;  // f32[C, D / H / 2]
  size_t count = 0;                    // C
};

// The sines and cosines of a call, as rows are multiplied with them.
class RotationTable {
 public:
  // For N images of T tokens, D columns and H heads; images with the coordinates of the one before share its table.
  // `memory` outlives this. Throws std::bad_alloc.
  RotationTable(const Kernels& kernels, const Rotation& rotation, size_t images, size_t tokens, size_t hidden,
                size_t heads, Workspace& memory);

  explicit operator bool() const { return cosines_ != nullptr; }
  const float* cosines() const { return cosines_; }
  const float* sines() const { return sines_; }
  // Columns of a row of the table, a multiple of 32: those of a head, or of all of them.
  size_t period() const { return period_; }
  // Where a token's row begins.
  size_t place(size_t image, size_t token) const { return (first_[image] + token) * period_; }

  // Rotates rows f32[D], `rows` of each image, those of its first tokens; in place.
  void rotate(const Kernels& kernels, float* x, size_t images, size_t rows, size_t hidden,
              const TaskRunner& runner) const;

  // Rotates some columns of rows f32[hidden], those of the first tokens of an image; in place, on the calling thread.
  void rotate_columns(const Kernels& kernels, float* x, size_t image, size_t rows, size_t hidden, size_t column,
                      size_t count) const;

 private:
  float* cosines_ = nullptr;  // f32[rows, period]
  float* sines_ = nullptr;    // with the sign that they are multiplied with
  size_t* first_ = nullptr;   // [N], row of an image's first token
  size_t period_ = 0;
};

}  // namespace vmoe
