// The residual stream: the normalization of what layers take of it, and the addition of what they give.
#pragma once

#include <cstddef>

#include "core/kernels.h"
#include "core/task_runner.h"

namespace vmoe {

// Layer normalization, epsilon 1e-6. What normalized rows are multiplied with and what is added, f32[D] each. Without a
// bias no mean is taken off: rows are divided by the root of their mean square. Both null: rows are taken as they are.
struct LayerNorm {
  const float* scale = nullptr;
  const float* bias = nullptr;

  explicit operator bool() const { return scale != nullptr; }
};

// y[r] = norm(x[r]) for rows of f32[D]; y may be x.
void normalize_rows(const Kernels& kernels, const LayerNorm& norm, const float* x, size_t rows, size_t depth, float* y,
                    const TaskRunner& runner);

// out = x + y for rows of f32[width]; out may be either.
void add_rows(const float* x, const float* y, size_t rows, size_t width, float* out, const TaskRunner& runner);

}  // namespace vmoe
