#include "core/linear.h"

#include "core/panel_tasks.h"
#include "core/tile_linear.h"

namespace vmoe {

void compute_linear(const LinearWeights& w, const float* x, size_t rows, float* y, const TaskRunner& runner) {
  const PackedWeights& matrix = *w.matrix;
  if (matrix.type() != ElementType::kFloat32)
    return compute_tile_linear({&matrix, w.bias, w.scale}, x, rows, y, runner);
  PanelProduct product;
  product.rows = x;
  product.row_stride = matrix.depth();
  product.depth = matrix.depth();
  product.epilogue.bias = w.bias;
  product.out = y;
  product.out_stride = matrix.columns();
  const size_t first[] = {0, rows};
  multiply_all(matrix, first, product, runner);
}

}  // namespace vmoe
