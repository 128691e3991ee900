#include "core/linear.h"

#include "core/panel_tasks.h"

namespace vmoe {

void Linear(const PackedWeights& w, const float* bias, const float* x, size_t rows, float* y,
            const TaskRunner& runner) {
  PanelProduct product;
  product.rows = x;
  product.row_stride = w.depth();
  product.depth = w.depth();
  product.epilogue.bias = bias;
  product.out = y;
  product.out_stride = w.columns();
  const size_t first[] = {0, rows};
  MultiplyAll(w, first, product, runner);
}

}  // namespace vmoe
