// Dense layers.
#pragma once

#include <cstddef>

#include "core/layer_weights.h"
#include "core/task_runner.h"

namespace vmoe {

// Computes y f32[rows, P] = x f32[rows, D] . w + bias, with w [1, D, P]. Throws std::bad_alloc.
void compute_linear(const LinearWeights& w, const float* x, size_t rows, float* y, const TaskRunner& runner);

}  // namespace vmoe
