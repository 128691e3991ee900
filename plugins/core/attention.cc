#include "core/attention.h"

#include <algorithm>
#include <cmath>

#include "core/linear.h"
#include "core/panel_tasks.h"
#include "core/workspace.h"

namespace vmoe {
namespace {

constexpr size_t kScoreRows = 8;    // query rows per block; only one block's scores are in memory at a time
constexpr size_t kScoreAlign = 16;  // each row of scores is padded to a multiple of this, to fill whole vectors

// Computes attention for one head of one image at a time. Owns the memory for the head's scores and its packed keys and
// values.
class Head {
 public:
  Head(const Kernels& kernels, const AttentionShape& shape)
      : kernels_(kernels), shape_(shape), size_(shape.hidden / shape.heads) {
    score_stride_ = round_up(shape.tokens, kScoreAlign);
    keys_ = workspace_.take<float>(packed_elements(kernels, size_, shape.tokens));
    values_ = workspace_.take<float>(packed_elements(kernels, shape.tokens, size_));
    scores_ = workspace_.take<float>(kScoreRows * score_stride_);
    by_size_ = workspace_.take<float>(score_stride_);
  }

  // Computes y, the output of the head. The pointers q, k, v and y point to the head's first column in the image's
  // first row. `sizes`, f32[T] or null, contains the number of original tokens that each key of the image represents.
  void run(const float* q, const float* k, const float* v, const float* sizes, float* y) const {
    prefetch(k, shape_.tokens);
    prefetch(v, shape_.tokens);
    for_each_panel(kernels_, size_, shape_.tokens, [&](size_t token, size_t count, size_t place) {
      pack_transposed_panel(kernels_, k + token * shape_.hidden, shape_.hidden, size_, count, keys_ + place);
    });
    for_each_panel(kernels_, shape_.tokens, size_, [&](size_t column, size_t count, size_t place) {
      pack_panel(kernels_, v + column, shape_.hidden, shape_.tokens, count, values_ + place);
    });
    const float scale = 1.0f / std::sqrt(static_cast<float>(size_));
    const bool sized = sizes != nullptr && size_scores(sizes, shape_.tokens, score_stride_, scale, by_size_);
    for (size_t row = 0; row < shape_.queries; row += kScoreRows) {
      const size_t rows = std::min(kScoreRows, shape_.queries - row);
      if (row + rows < shape_.queries) {
        prefetch(q + (row + rows) * shape_.hidden, std::min(kScoreRows, shape_.queries - row - rows));
      }
      for_each_panel(kernels_, size_, shape_.tokens, [&](size_t token, size_t count, size_t place) {
        multiply_panel(kernels_, q + row * shape_.hidden, shape_.hidden, rows, size_, keys_ + place, count,
                       scores_ + token, score_stride_);
      });
      for (size_t r = 0; r < rows; ++r) {
        float* scores = scores_ + r * score_stride_;
        for (size_t i = 0; sized && i < shape_.tokens; ++i) scores[i] += by_size_[i];
        kernels_.attention_softmax(scores, shape_.tokens, scale);
      }
      for_each_panel(kernels_, shape_.tokens, size_, [&](size_t column, size_t count, size_t place) {
        multiply_panel(kernels_, scores_, score_stride_, rows, shape_.tokens, values_ + place, count,
                       y + row * shape_.hidden + column, shape_.hidden);
      });
    }
  }

 private:
  const Kernels& kernels_;
  const AttentionShape& shape_;
  size_t size_;  // D / H
  size_t score_stride_ = 0;
  float* keys_ = nullptr;     // [D/H, S]
  float* values_ = nullptr;   // [S, D/H]
  float* scores_ = nullptr;   // [kScoreRows, S]
  float* by_size_ = nullptr;  // f32[T]: the values from size_scores(), which are added to the scores
  Workspace workspace_;

  // Prefetches the head's columns in `count` rows. The rows are so far apart that the processor cannot predict these
  // accesses.
  void prefetch(const float* rows, size_t count) const {
    constexpr size_t kPerLine = 64 / sizeof(float);
    for (size_t row = 0; row < count; ++row) {
      for (size_t column = 0; column < size_; column += kPerLine) {
        __builtin_prefetch(rows + row * shape_.hidden + column);
      }
    }
  }
};

}  // namespace

void compute_attention(const Kernels& kernels, const AttentionShape& shape, const float* q, const float* k,
                       const float* v, float* y, const TaskRunner& runner,
                       const std::function<void(size_t image, size_t head)>& before) {
  if (shape.queries == 0 || shape.tokens == 0 || shape.hidden == 0) return;
  parallel_for(runner, shape.images * shape.heads, [&](size_t task) {
    const size_t image = task / shape.heads;
    const size_t column = task % shape.heads * (shape.hidden / shape.heads);
    const size_t query = image * shape.queries * shape.hidden + column;
    const size_t token = image * shape.tokens * shape.hidden + column;
    if (before) before(image, task % shape.heads);
    const float* sizes = shape.sizes == nullptr ? nullptr : shape.sizes + image * shape.tokens;
    Head(kernels, shape).run(q + query, k + token, v + token, sizes, y + query);
  });
}

void compute_attention_block(const AttentionBlockWeights& weights, size_t images, size_t queries, size_t tokens,
                             const float* x, const Merging& merging, float* y, const TaskRunner& runner) {
  if (weights.query.in_tiles()) {
    return compute_tile_attention_block(weights, images, queries, tokens, x, merging, y, runner);
  }
  const Kernels& kernels = weights.query.matrix->kernels();
  const size_t width = weights.query.matrix->depth(), size = width / weights.heads;
  const size_t at_once = std::clamp<size_t>(kFloat32Rows / std::max<size_t>(tokens, 1), 1, std::max<size_t>(images, 1));
  Workspace workspace;
  auto* normed = workspace.take<float>(at_once * tokens * width);
  auto* q = workspace.take<float>(at_once * tokens * width);
  auto* k = workspace.take<float>(at_once * tokens * width);
  auto* v = workspace.take<float>(at_once * tokens * width);
  auto* mixed = workspace.take<float>(at_once * tokens * width);
  const RotationTable table(kernels, weights.rotation, images, tokens, width, weights.heads, workspace);
  for (size_t first = 0; first < images; first += at_once) {
    const size_t count = std::min(at_once, images - first), rows = count * tokens, asking = count * queries;
    const float* from = x + first * tokens * width;
    // Returns the rows of the tokens that are queries. If all tokens are queries, returns rows_of_all [N,T,D] itself.
    // Otherwise, copies the rows of the queries to `to`, and returns `to`.
    const auto queried = [&](const float* rows_of_all, float* to) {
      if (queries == tokens) return rows_of_all;
      for (size_t image = 0; image < count; ++image) {
        std::copy_n(rows_of_all + image * tokens * width, queries * width, to + image * queries * width);
      }
      return static_cast<const float*>(to);
    };
    normalize_rows(kernels, weights.norm, from, rows, width, normed, runner);
    compute_linear(weights.query, queried(normed, mixed), asking, q, runner);
    compute_linear(weights.key, normed, rows, k, runner);
    compute_linear(weights.value, normed, rows, v, runner);
    const auto rotate = [&](size_t image, size_t head) {
      const size_t column = head * size;
      table.rotate_columns(kernels, q + image * queries * width, first + image, queries, width, column, size);
      table.rotate_columns(kernels, k + image * tokens * width, first + image, tokens, width, column, size);
    };
    AttentionShape shape;
    shape.images = count;
    shape.queries = queries;
    shape.tokens = tokens;
    shape.hidden = width;
    shape.heads = weights.heads;
    if (merging.sizes != nullptr) shape.sizes = merging.sizes + first * tokens;
    compute_attention(kernels, shape, q, k, v, mixed, runner, rotate);
    if (weights.mixed_norm) normalize_rows(kernels, weights.mixed_norm, mixed, asking, width, mixed, runner);
    compute_linear(weights.out, mixed, asking, normed, runner);
    float* to = y + first * (queries - merging.count) * width;
    if (merging.count == 0) {
      add_rows(queried(from, q), normed, asking, width, to, runner);
    } else {
      add_rows(from, normed, rows, width, mixed, runner);
      merge_tokens(kernels, merging, first, count, tokens, width, weights.heads, mixed, k, to, runner);
    }
  }
}

}  // namespace vmoe
