// A dense layer on bfloat16 or int8 weights.
#pragma once

#include <cstddef>

#include "core/task_runner.h"
#include "core/tile_matrix.h"

namespace vmoe {

// y f32[rows, P] = x f32[rows, D] x w + bias, with w [1, D, P]. Throws std::bad_alloc.
void compute_tile_linear(const TileMatrix& w, const float* x, size_t rows, float* y, const TaskRunner& runner);

}  // namespace vmoe
