// Dense layers on the experts' kernels.
#pragma once

#include <cstddef>

#include "core/packed_weights.h"
#include "core/task_runner.h"

namespace vmoe {

// y f32[rows, N] = x f32[rows, D] x w + bias, with w float32 [1, D, N] packed and bias f32[N].
void Linear(const PackedWeights& w, const float* bias, const float* x, size_t rows, float* y, const TaskRunner& runner);

}  // namespace vmoe
