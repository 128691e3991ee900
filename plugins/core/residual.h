// The residual stream: normalizes the inputs of layers, and adds their outputs to the stream.
#pragma once

#include <cstddef>

#include "core/kernels.h"
#include "core/task_runner.h"

namespace vmoe {

// Layer normalization with epsilon 1e-6; scale and bias are f32[D]. If only the bias is null, it is an RMS norm: the
// mean is not subtracted, and each row is divided by the root of its mean square. If both are null, rows are not
// changed.
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
