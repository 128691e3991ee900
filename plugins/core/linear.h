// Dense layers.
#pragma once

#include <cstddef>

#include "core/packed_weights.h"
#include "core/task_runner.h"

namespace vmoe {

// A weight matrix [1, D, P] packed, with what belongs to its columns (not owned): bias f32[P], and for int8 scale
// f32[P].
struct LinearWeights {
  const PackedWeights* matrix = nullptr;
  const float* bias = nullptr;
  const float* scale = nullptr;
};

// y f32[rows, P] = x f32[rows, D] x w + bias. Throws std::bad_alloc.
void compute_linear(const LinearWeights& w, const float* x, size_t rows, float* y, const TaskRunner& runner);

}  // namespace vmoe
