#include "core/residual.h"

namespace vmoe {

void normalize_rows(const Kernels& kernels, const LayerNorm& norm, const float* x, size_t rows, size_t depth, float* y,
                    const TaskRunner& runner) {
  parallel_for_rows(runner, rows, [&](size_t begin, size_t end) {
    for (size_t row = begin; row < end; ++row) {
      kernels.normalize(x + row * depth, norm.scale, norm.bias, depth, y + row * depth);
    }
  });
}

void add_rows(const float* x, const float* y, size_t rows, size_t width, float* out, const TaskRunner& runner) {
  parallel_for_rows(runner, rows, [&](size_t begin, size_t end) {
    for (size_t i = begin * width; i < end * width; ++i) out[i] = x[i] + y[i];
  });
}

}  // namespace vmoe
