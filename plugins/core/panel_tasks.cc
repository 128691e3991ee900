#include "core/panel_tasks.h"

#include <algorithm>
#include <vector>

namespace vmoe {
namespace {

constexpr size_t kCacheLine = 64;
// Maximum number of rows of a panel product that one thread computes at once. It is chosen so that the rows stay in a
// core's cache together with the panel. The number hardly matters: with 64, 128 and 512 rows, an MLP with 2,048 rows
// reached 50, 50 and 51 multiply-adds per ns on one thread of Zen 4.
constexpr size_t kRowsPerTask = 128;

}  // namespace

size_t padded_stride(size_t columns) {
  constexpr size_t kPerLine = kCacheLine / sizeof(float);
  return round_up(columns, kPerLine) + kPerLine;
}

void multiply_all(const PackedWeights& weights, const size_t* first, const PanelProduct& product,
                  const TaskRunner& runner) {
  size_t most_rows = 0;
  std::vector<size_t> used;  // the matrices with at least one row; matrices without rows are not read
  used.reserve(weights.matrices());
  for (size_t matrix = 0; matrix < weights.matrices(); ++matrix) {
    const size_t rows = first[matrix + 1] - first[matrix];
    if (rows > 0) used.push_back(matrix);
    most_rows = std::max(most_rows, rows);
  }
  const size_t chunks = divide_up(most_rows, kRowsPerTask);
  const size_t panels = weights.panels();
  parallel_for(runner, used.size() * panels * chunks, [&](size_t task) {
    const size_t turn = task / (panels * chunks);
    const size_t matrix = used[turn];
    // The values of `task` go through all panels for one chunk of rows, and then through all panels for the next
    // chunk. The rows of a chunk therefore stay in the cache.
    const size_t chunk = task / panels % chunks;
    const size_t panel = task % panels;
    // Chunks consist of whole tiles of rows.
    const size_t tile_rows = weights.kernels().tile_rows;
    const size_t tiles = divide_up(first[matrix + 1] - first[matrix], tile_rows);
    const size_t begin = first[matrix] + tiles * chunk / chunks * tile_rows;
    const size_t end = std::min(first[matrix] + tiles * (chunk + 1) / chunks * tile_rows, first[matrix + 1]);
    if (begin >= end) return;
    const size_t column = panel * weights.kernels().panel_columns;
    PanelProduct mine = product;
    mine.row_count = end - begin;
    if (product.index != nullptr) {
      mine.index = product.index + begin;
    } else {
      mine.rows = product.rows + begin * product.row_stride;
    }
    mine.panel = reinterpret_cast<const float*>(weights.panel_at(matrix, panel));
    mine.columns = weights.columns_of_panel(panel);
    // Threads take the values of `task` in order, so the panel of the next value is prefetched.
    const size_t next = panel + 1 < panels ? panel + 1 : 0;
    const size_t next_turn = next > 0 || chunk + 1 < chunks ? turn : turn + 1;
    if (next_turn < used.size()) {
      mine.next_panel = weights.panel_at(used[next_turn], next);
      mine.next_panel_bytes = weights.bytes_of_panel(next);
    }
    if (product.epilogue.bias != nullptr)
      mine.epilogue.bias = product.epilogue.bias + matrix * weights.columns() + column;
    const size_t place = begin * product.out_stride + column;
    if (product.epilogue.factor != nullptr) mine.epilogue.factor = product.epilogue.factor + place;
    mine.out = product.out + place;
    weights.kernels().product_f32(mine);
  });
}

void multiply_rows(const PackedWeights& weights, const float* x, size_t rows, float* out) {
  for (size_t panel = 0; panel < weights.panels(); ++panel) {
    multiply_panel(weights.kernels(), x, weights.depth(), rows, weights.depth(),
                   reinterpret_cast<const float*>(weights.panel_at(0, panel)), weights.columns_of_panel(panel),
                   out + panel * weights.kernels().panel_columns, weights.columns());
  }
}

}  // namespace vmoe
