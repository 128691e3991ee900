#include "core/tile_attention.h"

#include <algorithm>
#include <cmath>

#include "core/attention.h"
#include "core/stages.h"

namespace vmoe {
namespace {

// Packs the columns of one head of some tokens as lines of bfloat16; those of the same 32 columns stand together, as a
// product writes them.
void pack_head(const Kernels& kernels, const float* from, size_t stride, size_t tokens, size_t size, char* to) {
  const size_t tiles = divide_up(tokens, kRowsPerTile);
  TileRows rows;
  rows.stride = stride;
  rows.row_count = tokens;
  rows.row_tile_stride = kTileBytes;
  for (size_t column = 0; column < size; column += kPanelColumns) {
    rows.rows = from + column;
    rows.depth = std::min(kPanelColumns, size - column);
    rows.tiles = to + column / kPanelColumns * tiles * kTileBytes;
    pack_tiles(kernels, rows, 0, tiles);
  }
}

// q, k, v and y are those of all images.
void compute_head(const Kernels& kernels, const AttentionShape& shape, size_t image, size_t number, const float* q,
                  const float* k, const float* v, float* y) {
  TileHead head;
  head.size = shape.hidden / shape.heads;
  head.lines = divide_up(head.size, kPanelColumns);
  head.queries = shape.queries;
  head.tokens = shape.tokens;
  head.q_step_stride = divide_up(shape.queries, kRowsPerTile) * kTileBytes;
  head.line_stride = divide_up(shape.tokens, kRowsPerTile) * kTileBytes;
  size_t* offset = nullptr;
  char *query = nullptr, *key = nullptr, *value = nullptr;
  float* added = nullptr;
  Workspace workspace;
  take_all(workspace, [&](auto& memory) {
    offset = memory.template take<size_t>(shape.queries);
    query = memory.template take<char>(head.lines * head.q_step_stride);
    key = memory.template take<char>(head.lines * head.line_stride);
    value = memory.template take<char>(head.lines * head.line_stride);
    added = memory.template take<float>(round_up(shape.tokens, kPanelColumns));
  });
  for (size_t row = 0; row < shape.queries; ++row) offset[row] = row * shape.hidden * sizeof(float);
  const size_t first_query = image * shape.queries * shape.hidden + number * head.size;
  const size_t first_token = image * shape.tokens * shape.hidden + number * head.size;
  pack_head(kernels, q + first_query, shape.hidden, shape.queries, head.size, query);
  pack_head(kernels, k + first_token, shape.hidden, shape.tokens, head.size, key);
  pack_head(kernels, v + first_token, shape.hidden, shape.tokens, head.size, value);
  head.q = query;
  head.k = key;
  head.v = value;
  head.added = added_to_scores(shape.sizes == nullptr ? nullptr : shape.sizes + image * shape.tokens, head, added);
  head.offset = offset;
  head.out_columns = head.size;
  head.out = y + first_query;
  attend_head(kernels, head);
}

}  // namespace

void attend_head(const Kernels& kernels, TileHead head) {
  Workspace scratch;
  take_all(scratch,
           [&](auto& memory) { head.scratch = memory.template take<char>(tile_head_bytes(head.tokens, head.lines)); });
  kernels.attend(head);
}

const float* added_to_scores(const float* sizes, const TileHead& head, float* memory) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(head.size));
  const size_t padded = round_up(head.tokens, kPanelColumns);
  return sizes != nullptr && size_scores(sizes, head.tokens, padded, scale, memory) ? memory : nullptr;
}

void compute_tile_attention(const Kernels& kernels, const AttentionShape& shape, const float* q, const float* k,
                            const float* v, float* y, const TaskRunner& runner) {
  if (shape.queries == 0 || shape.tokens == 0 || shape.hidden == 0) return;
  Stage heads;
  heads.items = 1;
  heads.run = [&](size_t group, size_t, size_t, size_t) {
    compute_head(kernels, shape, group / shape.heads, group % shape.heads, q, k, v, y);
  };
  run_stages(runner, shape.images * shape.heads, {heads}, kernels.needs_tile_configuration);
}

}  // namespace vmoe
