// The residual stream: what layers add to.
#pragma once

#include <cstddef>

#include "core/task_runner.h"

namespace vmoe {

// out = x + y for rows of f32[width]; out may be either.
inline void add_rows(const float* x, const float* y, size_t rows, size_t width, float* out, const TaskRunner& runner) {
  parallel_for_rows(runner, rows, [&](size_t begin, size_t end) {
    for (size_t i = begin * width; i < end * width; ++i) out[i] = x[i] + y[i];
  });
}

}  // namespace vmoe
