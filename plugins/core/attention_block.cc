#include <algorithm>

#include "core/attention.h"
#include "core/linear.h"
#include "core/workspace.h"

namespace vmoe {

void compute_attention_block(const AttentionBlockWeights& weights, size_t images, size_t queries, size_t tokens,
                             const float* x, const Merging& merging, float* y, const TaskRunner& runner) {
  if (weights.query.in_tiles()) {
    return compute_tile_attention_block(weights, images, queries, tokens, x, merging, y, runner);
  }
  const Kernels& kernels = weights.query.matrix->kernels();
  const size_t width = weights.query.matrix->depth();
  const size_t rows = images * tokens;
  Workspace workspace;
  auto* normed = workspace.take<float>(rows * width);
  auto* q = workspace.take<float>(rows * width);
  auto* k = workspace.take<float>(rows * width);
  auto* v = workspace.take<float>(rows * width);
  auto* mixed = workspace.take<float>(rows * width);
  // The rows [N,T,D] of the tokens that ask, one after another: all of them, or a copy.
  const auto queried = [&](const float* from, float* to) {
    if (queries == tokens) return from;
    for (size_t image = 0; image < images; ++image) {
      std::copy_n(from + image * tokens * width, queries * width, to + image * queries * width);
    }
    return static_cast<const float*>(to);
  };
  normalize_rows(kernels, weights.norm, x, rows, width, normed, runner);
  compute_linear(weights.query, queried(normed, mixed), images * queries, q, runner);
  compute_linear(weights.key, normed, rows, k, runner);
  compute_linear(weights.value, normed, rows, v, runner);
  compute_attention(kernels, {images, queries, tokens, width, weights.heads, merging.sizes}, q, k, v, mixed, runner);
  compute_linear(weights.out, mixed, images * queries, normed, runner);
  if (merging.count == 0) return add_rows(queried(x, q), normed, images * queries, width, y, runner);
  add_rows(x, normed, rows, width, mixed, runner);
  merge_tokens(kernels, merging, images, tokens, width, weights.heads, mixed, k, y, runner);
}

}  // namespace vmoe
