#include "core/attention.h"
#include "core/linear.h"
#include "core/workspace.h"

namespace vmoe {

void compute_attention_block(const AttentionBlockWeights& weights, size_t images, size_t tokens, const float* x,
                             const Merging& merging, float* y, const TaskRunner& runner) {
  if (weights.query.in_tiles()) return compute_tile_attention_block(weights, images, tokens, x, merging, y, runner);
  const Kernels& kernels = weights.query.matrix->kernels();
  const size_t width = weights.query.matrix->depth();
  const size_t rows = images * tokens;
  float *normed = nullptr, *q = nullptr, *k = nullptr, *v = nullptr, *mixed = nullptr;
  Workspace workspace;
  take_all(workspace, [&](auto& memory) {
    for (float** values : {&normed, &q, &k, &v, &mixed}) *values = memory.template take<float>(rows * width);
  });
  normalize_rows(kernels, weights.norm, x, rows, width, normed, runner);
  compute_linear(weights.query, normed, rows, q, runner);
  compute_linear(weights.key, normed, rows, k, runner);
  compute_linear(weights.value, normed, rows, v, runner);
  compute_attention(kernels, {images, tokens, tokens, width, weights.heads, merging.sizes}, q, k, v, mixed, runner);
  compute_linear(weights.out, mixed, rows, normed, runner);
  if (merging.count == 0) return add_rows(x, normed, rows, width, y, runner);
  add_rows(x, normed, rows, width, mixed, runner);
  merge_tokens(kernels, merging, images, tokens, width, weights.heads, mixed, k, y, runner);
}

}  // namespace vmoe
