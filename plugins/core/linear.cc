#include "core/linear.h"

#include <vector>

#include "core/panel_tasks.h"
#include "core/stages.h"

namespace vmoe {
namespace {

void compute_in_tiles(const LinearWeights& w, const float* x, size_t rows, float* y, const TaskRunner& runner) {
  const Kernels& kernels = w.matrix->kernels();
  const size_t first[] = {0, rows};
  const std::vector<RowGroup> groups = group_rows(first, 1);
  const size_t most_rows = find_most_rows(groups);
  const size_t columns = w.matrix->columns();
  std::vector<PackedRows> slots(stage_slots(groups.size()));
  Workspace workspace;
  const LinearWeights padded = w.with_padding(workspace);
  auto* offset = workspace.take<size_t>(most_rows);
  for (PackedRows& slot : slots) slot = w.take_rows(workspace, most_rows);
  for (size_t row = 0; row < most_rows; ++row) offset[row] = row * columns * sizeof(float);

  const size_t row_tiles = divide_up(most_rows, kRowsPerTile);
  Stage pack, multiply;
  pack.items = row_tiles;
  pack.run = [&](size_t group, size_t slot, size_t begin, size_t end) {
    const float* rows_of_group = x + groups[group].begin * w.matrix->depth();
    pack_tiles(kernels, w.make_rows(rows_of_group, groups[group].count(), slots[slot]), begin, end);
  };
  multiply.items = padded.matrix->panels();
  multiply.run = [&](size_t group, size_t slot, size_t begin, size_t end) {
    const TileProduct product = padded.make_product(slots[slot], groups[group].count(), 0, begin, end - begin);
    FloatRows to;
    to.out = y + groups[group].begin * columns + begin * kPanelColumns;
    to.offset = offset;
    kernels.multiply_to_float_rows(product, to);
  };
  run_stages(runner, groups.size(), {pack, multiply}, kernels.needs_tile_configuration);
}

}  // namespace

void compute_linear(const LinearWeights& w, const float* x, size_t rows, float* y, const TaskRunner& runner) {
  if (w.in_tiles()) return compute_in_tiles(w, x, rows, y, runner);
  PanelProduct product;
  product.rows = x;
  product.row_stride = product.depth = w.matrix->depth();
  product.epilogue.bias = w.bias;
  product.out = y;
  product.out_stride = w.matrix->columns();
  const size_t first[] = {0, rows};
  multiply_all(*w.matrix, first, product, runner);
}

}  // namespace vmoe
