#include "core/attention_block.h"

#include "core/attention.h"
#include "core/residual.h"
#include "core/tile_attention.h"
#include "core/workspace.h"

namespace vmoe {
namespace {

TileMatrix in_tiles(const LinearWeights& w) { return {w.matrix, w.bias, w.scale}; }

}  // namespace

void compute_attention_block(const AttentionBlockWeights& weights, size_t images, size_t tokens, const float* x,
                             float* y, const TaskRunner& runner) {
  const PackedWeights& query = *weights.query.matrix;
  if (query.type() != ElementType::kFloat32) {
    return compute_tile_attention_block(
        {in_tiles(weights.query), in_tiles(weights.key), in_tiles(weights.value), in_tiles(weights.out), weights.heads},
        weights.norm.scale, weights.norm.bias, images, tokens, x, y, runner);
  }
  const size_t width = query.depth();
  const size_t rows = images * tokens;
  float *normed = nullptr, *q = nullptr, *k = nullptr, *v = nullptr, *mixed = nullptr;
  Workspace workspace;
  take_all(workspace, [&](auto& memory) {
    for (float** values : {&normed, &q, &k, &v, &mixed}) *values = memory.template take<float>(rows * width);
  });
  normalize_rows(query.kernels(), weights.norm, x, rows, width, normed, runner);
  compute_linear(weights.query, normed, rows, q, runner);
  compute_linear(weights.key, normed, rows, k, runner);
  compute_linear(weights.value, normed, rows, v, runner);
  compute_attention(query.kernels(), {images, tokens, tokens, width, weights.heads}, q, k, v, mixed, runner);
  compute_linear(weights.out, mixed, rows, normed, runner);
  add_rows(x, normed, rows, width, y, runner);
}

}  // namespace vmoe
