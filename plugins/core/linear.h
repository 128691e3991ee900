// Dense layers.
#pragma once

#include <cstddef>

#include "core/layer_weights.h"
#include "core/task_runner.h"

namespace vmoe {

// Computes y = x . w + bias for x f32[rows, D], w [1, D, P] and y f32[rows, P]. Throws std::bad_alloc.
void compute_linear(const LinearWeights& w, const float* x, size_t rows, float* y, const TaskRunner& runner);

}  // namespace vmoe
