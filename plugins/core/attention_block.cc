#include "core/attention_block.h"

#include "core/attention.h"
#include "core/residual.h"
#include "core/tile_attention.h"
#include "core/workspace.h"

namespace vmoe {
namespace {

TileMatrix InTiles(const LinearWeights& w) { return {w.matrix, w.bias, w.scale}; }

}  // namespace

void AttentionBlock(const AttentionBlockWeights& weights, size_t images, size_t tokens, const float* x, float* y,
                    const TaskRunner& runner) {
  const PackedWeights& query = *weights.query.matrix;
  if (query.type() != ElementType::kFloat32) {
    return TileAttentionBlock(
        {InTiles(weights.query), InTiles(weights.key), InTiles(weights.value), InTiles(weights.out), weights.heads},
        weights.norm.scale, weights.norm.bias, images, tokens, x, y, runner);
  }
  const size_t width = query.depth();
  const size_t rows = images * tokens;
  float *normed = nullptr, *q = nullptr, *k = nullptr, *v = nullptr, *mixed = nullptr;
  Workspace workspace;
  TakeAll(workspace, [&](auto& memory) {
    for (float** values : {&normed, &q, &k, &v, &mixed}) *values = memory.template Take<float>(rows * width);
  });
  Normalize(query.kernels(), weights.norm, x, rows, width, normed, runner);
  Linear(weights.query, normed, rows, q, runner);
  Linear(weights.key, normed, rows, k, runner);
  Linear(weights.value, normed, rows, v, runner);
  Attention(query.kernels(), {images, tokens, tokens, width, weights.heads}, q, k, v, mixed, runner);
  Linear(weights.out, mixed, rows, normed, runner);
  AddRows(x, normed, rows, width, y, runner);
}

}  // namespace vmoe
