// Rotary positions: rotates pairs of a head's columns by angles that depend on the token's coordinates.
#pragma once

#include <cstddef>

#include "core/kernels.h"
#include "core/task_runner.h"
#include "core/workspace.h"

namespace vmoe {

// The angles of rotary positions. Pair p of a head consists of the head's columns 2 p and 2 p + 1. The angle of pair
// p is the sum of coordinates[c] * frequencies[c, p] over all coordinates c. A token whose coordinates are all zero
// is not rotated.
struct Rotation {
  const float* coordinates = nullptr;  // f32[N, T, C]; if null, nothing is rotated
  const float* frequencies = nullptr;  // f32[C, D / H / 2]
  size_t count = 0;                    // C
};

// The sines and cosines that one call needs. They are stored in the order of the columns that they multiply.
class RotationTable {
 public:
  // Computes the table for `images` images. Each image has `tokens` tokens, and each token has `hidden` columns in
  // `heads` heads. If an image has the same coordinates as the previous image, both images use the same rows of the
  // table. `memory` must outlive this object. Throws std::bad_alloc.
  RotationTable(const Kernels& kernels, const Rotation& rotation, size_t images, size_t tokens, size_t hidden,
                size_t heads, Workspace& memory);

  explicit operator bool() const { return cosines_ != nullptr; }
  const float* cosines() const { return cosines_; }
  const float* sines() const { return sines_; }
  // Returns the number of columns in a row of the table, which is a multiple of 32. If the number of columns in a head
  // is a multiple of 32, a row covers one head. Otherwise, a row covers all heads and is padded.
  size_t period() const { return period_; }
  // Returns the index in the table at which a token's row begins.
  size_t place(size_t image, size_t token) const { return (first_[image] + token) * period_; }

  // Rotates the first `rows` tokens of each image in place. Each token is a row f32[D].
  void rotate(const Kernels& kernels, float* x, size_t images, size_t rows, size_t hidden,
              const TaskRunner& runner) const;

  // Rotates the columns `column` to `column` + `count` (exclusive) of the first `rows` tokens of an image. Each token
  // is a row f32[hidden]. Works in place, on the calling thread.
  void rotate_columns(const Kernels& kernels, float* x, size_t image, size_t rows, size_t hidden, size_t column,
                      size_t count) const;

 private:
  float* cosines_ = nullptr;  // f32[rows, period]
  float* sines_ = nullptr;    // f32[rows, period]; the first of the two sines of each pair is negated
  size_t* first_ = nullptr;   // [N]: row of the table for each image's first token
  size_t period_ = 0;
};

}  // namespace vmoe
