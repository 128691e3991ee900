// The residual stream: normalizes the inputs of layers, and adds their outputs to the stream.
#pragma once

#include <cstddef>

#include "core/kernels.h"
#include "core/task_runner.h"

namespace vmoe {

// Layer normalization with epsilon 1e-6. Scale and bias are f32[D]. If only the bias is null, this is an RMS norm: it
// does not subtract the mean, and divides each row by the root of the row's mean square. If scale and bias are both
// null, rows are not changed.
struct LayerNorm {
  const float* scale = nullptr;
  const float* bias = nullptr;

  explicit operator bool() const { return scale != nullptr; }
};

// Computes y[r] = norm(x[r]) for `rows` rows of `depth` float32 values. y may be x.
void normalize_rows(const Kernels& kernels, const LayerNorm& norm, const float* x, size_t rows, size_t depth, float* y,
                    const TaskRunner& runner);

// Computes out = x + y for `rows` rows of `width` float32 values. `out` may be x or y.
void add_rows(const float* x, const float* y, size_t rows, size_t width, float* out, const TaskRunner& runner);

}  // namespace vmoe
