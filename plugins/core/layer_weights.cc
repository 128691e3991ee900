#include "core/layer_weights.h"

#include <unistd.h>

#include <algorithm>

#include "core/stages.h"

namespace vmoe {
namespace {

// How many bytes of a core's second-level cache are allotted to each row of a group. The number is an estimate from the
// sizes of the operands (commit f36f548b). On one thread of Zen 4, an MLP with 2,048 rows was timed with values from
// 1250 to 10000 bytes. The times differed by no more than the measurement noise, about 15 %.
constexpr size_t kBytesOfRow = 5000;
// The assumed size of a second-level cache if the system does not report it.
constexpr long kUsualCacheBytes = 1 << 20;
// If a matrix has at most this many rows, they are not cut into groups. Each further group reads the weights again,
// which is not worthwhile for so few rows. The value is from commit 5855fbaa and was not measured.
constexpr size_t kLeastRowsOfGroup = 128;

}  // namespace

PackedRows LinearWeights::take_rows(Workspace& memory, size_t count) const {
  return {memory.take<char>(divide_up(count, kRowsPerTile) * row_tile_stride()),
          quantized() ? memory.take<float>(count) : nullptr};
}

TileRows LinearWeights::make_rows(const float* rows, size_t count, const PackedRows& packed) const {
  TileRows made;
  made.type = type();
  made.rows = rows;
  made.row_count = count;
  made.depth = made.stride = matrix->depth();
  made.tiles = packed.tiles;
  made.row_tile_stride = row_tile_stride();
  made.scale = packed.scale;
  return made;
}

TileProduct LinearWeights::make_product(const PackedRows& rows, size_t count, size_t index, size_t first_panel,
                                        size_t panels, size_t first_step, size_t steps) const {
  TileProduct product;
  product.type = type();
  product.rows = rows.tiles;
  product.row_scale = rows.scale;
  product.row_count = count;
  product.row_tile_stride = row_tile_stride();
  product.steps = steps;
  product.panel = matrix->panel_at(index, first_panel) + first_step * weight_type(type()).panel_step_bytes;
  product.panel_stride = matrix->panel_stride();
  product.panels = panels;
  const size_t column = first_panel * kPanelColumns;
  const size_t first = index * matrix->padded_columns() + column;
  product.bias = bias + first;
  if (has_column_scale()) product.column_scale = scale + first;
  if (const int32_t* excess = matrix->column_excess(index, first_step)) product.column_excess = excess + column;
  product.columns = std::min(matrix->columns(), column + panels * kPanelColumns) - std::min(column, matrix->columns());
  return product;
}

LinearWeights LinearWeights::with_padding(Workspace& memory, const size_t* first) const {
  LinearWeights padded = *this;
  if (matrix->padded_columns() == matrix->columns()) return padded;
  padded.bias = widened(bias, first, memory);
  if (has_column_scale()) padded.scale = widened(scale, first, memory);
  return padded;
}

const float* LinearWeights::widened(const float* values, const size_t* first, Workspace& memory) const {
  const size_t columns = matrix->columns(), wide_columns = matrix->padded_columns();
  auto* wide = memory.take<float>(matrix->matrices() * wide_columns);
  std::fill(wide, wide + matrix->matrices() * wide_columns, 0.0f);
  for (size_t i = 0; i < matrix->matrices(); ++i) {
    if (first != nullptr && first[i] == first[i + 1]) continue;
    std::copy_n(values + i * columns, columns, wide + i * wide_columns);
  }
  return wide;
}

void pack_tiles(const Kernels& kernels, TileRows rows, size_t first_tile, size_t end_tile) {
  end_tile = std::min(end_tile, divide_up(rows.row_count, kRowsPerTile));
  if (first_tile >= end_tile) return;
  Workspace scratch;
  rows.scratch = scratch.take<float>(steps_of_depth(rows.type, rows.depth) * depth_of_line(rows.type));
  const size_t first_row = first_tile * kRowsPerTile;
  rows.row_count = std::min(rows.row_count, end_tile * kRowsPerTile) - first_row;
  if (rows.index != nullptr) {
    rows.index += first_row;
  } else {
    rows.rows += first_row * rows.stride;
  }
  rows.tiles += first_tile * rows.row_tile_stride;
  if (rows.scale != nullptr) rows.scale += first_row;
  kernels.pack_rows(rows);
}

size_t most_rows_of_group() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const long known = sysconf(_SC_LEVEL2_CACHE_SIZE);
#else
  constexpr long known = 0;
#endif
  const auto bytes = static_cast<size_t>(known > 0 ? known : kUsualCacheBytes);
  return std::max(bytes / kBytesOfRow / kRowsPerTile * kRowsPerTile, kLeastRowsOfGroup);
}

std::vector<RowGroup> group_rows(const size_t* first, size_t matrices) {
  const size_t all = first[matrices] - first[0];
  const size_t turns = divide_up(divide_up(all, most_rows_of_group()), stage_threads());  // groups of each thread
  const size_t fair = round_up(divide_up(all, std::max<size_t>(turns, 1) * stage_threads()), 2 * kRowsPerTile);
  const size_t most = std::clamp(fair, kLeastRowsOfGroup, most_rows_of_group());
  std::vector<RowGroup> groups;
  for (size_t matrix = 0; matrix < matrices; ++matrix) {
    const size_t rows = first[matrix + 1] - first[matrix];
    const size_t parts = divide_up(rows, most);
    const size_t tiles = divide_up(rows, kRowsPerTile);
    for (size_t part = 0; part < parts; ++part) {
      RowGroup group;
      group.matrix = matrix;
      group.begin = first[matrix] + tiles * part / parts * kRowsPerTile;
      group.end = std::min(first[matrix] + tiles * (part + 1) / parts * kRowsPerTile, first[matrix + 1]);
      groups.push_back(group);
    }
  }
  // Each thread takes the next group when it is free. If a large group came last, the other threads would wait for it.
  std::stable_sort(groups.begin(), groups.end(),
                   [](const RowGroup& one, const RowGroup& other) { return one.count() > other.count(); });
  return groups;
}

size_t find_most_rows(const std::vector<RowGroup>& groups) {
  size_t most = 0;
  for (const RowGroup& group : groups) most = std::max(most, group.count());
  return most;
}

}  // namespace vmoe
