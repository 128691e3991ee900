#include "core/panel_tasks.h"

#include <algorithm>

namespace vmoe {
namespace {

constexpr size_t kCacheLine = 64;
// A task is one panel and up to so many rows, that both stay in the cache of its core.
constexpr size_t kRowsPerTask = 128;

}  // namespace

size_t PaddedStride(size_t columns, size_t element_bytes) {
  const size_t per_line = kCacheLine / element_bytes;
  return (columns + per_line - 1) / per_line * per_line + per_line;
}

void MultiplyAll(const PackedWeights& weights, const size_t* first, const PanelProduct& product,
                 const TaskRunner& runner) {
  const auto multiply = weights.bf16() ? weights.kernels().product_bf16 : weights.kernels().product_f32;
  const size_t in_bytes = weights.bf16() ? sizeof(Bf16) : sizeof(float);
  const size_t out_bytes = product.epilogue.to_bf16 ? sizeof(Bf16) : sizeof(float);
  size_t most_rows = 0;
  for (size_t matrix = 0; matrix < weights.matrices(); ++matrix) {
    most_rows = std::max(most_rows, first[matrix + 1] - first[matrix]);
  }
  const size_t chunks = (most_rows + kRowsPerTask - 1) / kRowsPerTask;
  const size_t panels = weights.panels();
  ParallelFor(runner, weights.matrices() * panels * chunks, [&](size_t task) {
    const size_t matrix = task / (panels * chunks);
    // All panels of a chunk of rows, then the next chunk: the rows stay in the cache.
    const size_t chunk = task / panels % chunks;
    const size_t panel = task % panels;
    // Chunks of whole tiles.
    const size_t tile_rows = weights.kernels().tile_rows;
    const size_t tiles = (first[matrix + 1] - first[matrix] + tile_rows - 1) / tile_rows;
    const size_t begin = first[matrix] + tiles * chunk / chunks * tile_rows;
    const size_t end = std::min(first[matrix] + tiles * (chunk + 1) / chunks * tile_rows, first[matrix + 1]);
    if (begin >= end) return;
    const size_t column = panel * weights.kernels().panel_columns;
    PanelProduct mine = product;
    mine.row_count = end - begin;
    if (product.index != nullptr) {
      mine.index = product.index + begin;
    } else {
      mine.rows = static_cast<const char*>(product.rows) + begin * product.row_stride * in_bytes;
    }
    mine.panel = weights.Panel(matrix, panel);
    mine.columns = weights.PanelColumns(panel);
    // Tasks are taken in turn, so the next panel is the next task's.
    const size_t next = panel + 1 < panels ? panel + 1 : 0;
    const size_t next_matrix = next > 0 || chunk + 1 < chunks ? matrix : matrix + 1;
    if (next_matrix < weights.matrices()) {
      mine.next_panel = weights.Panel(next_matrix, next);
      mine.next_panel_bytes = weights.PanelBytes(next);
    }
    if (product.epilogue.bias != nullptr)
      mine.epilogue.bias = product.epilogue.bias + matrix * weights.columns() + column;
    mine.out = static_cast<char*>(product.out) + (begin * product.out_stride + column) * out_bytes;
    multiply(mine);
  });
}

}  // namespace vmoe
