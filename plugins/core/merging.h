// Token merging ("Token Merging", arXiv 2210.09461). Replaces an image's tokens that have similar keys by their mean.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/kernels.h"
#include "core/merging_keys.h"
#include "core/task_runner.h"
#include "core/workspace.h"

namespace vmoe {

// The inputs and outputs of merging in a block. Merging reduces each image's T tokens to T - count.
struct Merging {
  size_t count = 0;                 // see count_merged
  size_t prefix = 0;                // number of tokens at the start of each image that are never merged
  size_t all_tokens = 0;            // number of tokens of an image before the first merging
  const float* sizes = nullptr;     // f32[N, T]: the number of original tokens that each token represents
  const int32_t* token = nullptr;   // i32[N, all_tokens]: the token that represents each original token, or -1 if none
  float* merged_sizes = nullptr;    // f32[N, T - count], or null
  int32_t* merged_token = nullptr;  // i32[N, all_tokens], or none
  // The coordinates of the tokens, f32[N, T, coordinate_count], or null. They are merged like the tokens, into
  // merged_coordinates, f32[N, T - count, coordinate_count].
  const float* coordinates = nullptr;
  size_t coordinate_count = 0;
  float* merged_coordinates = nullptr;
};

// Returns how many of an image's `tokens` tokens are merged if merging `merge` tokens is requested. The result is at
// most half of the tokens, and at most the number of candidates.
size_t count_merged(size_t tokens, int64_t merge, size_t prefix);

// Decides how the T tokens of an image are merged. After the prefix, every second token is a candidate. A candidate may
// join the most similar of the tokens between the candidates. The `count` candidates with the highest similarities
// join. If similarities are equal, the token with the lower index comes first. NaN counts as the lowest similarity. The
// result contains first the prefix, then the candidates that join no token, then the tokens that candidates may join.
class ImageMerging {
 public:
  // `merging` and `memory` must outlive this object. Throws std::bad_alloc.
  ImageMerging(const Merging& merging, size_t tokens, Workspace& memory);

  // Decides which tokens of an image join which other tokens, given the tokens' keys. Writes the image's part of
  // merged_sizes, merged_coordinates and merged_token. Throws std::bad_alloc.
  void find(const Kernels& kernels, size_t image, const MergingKeys& keys);

  bool joins(size_t token) const;
  // Returns the index of a token after merging, which is below T - count. If the token joins another token, this is the
  // other token's index.
  size_t place(size_t token) const { return static_cast<size_t>(place_[token]); }

  // Merges rows. `joining`, f32[count, columns], contains the rows of the tokens that join another token. The row of
  // each other token is already in `to`, f32[T - count, columns], at its place().
  void join_rows(const float* joining, size_t columns, float* to) const;
  // Merges the rows of `from`, f32[T, columns]. These rows are in the order of the tokens. Writes the result to `to`,
  // f32[T - count, columns]. Throws std::bad_alloc.
  void merge_rows(const float* from, size_t columns, float* to) const;

 private:
  const Merging& merging_;
  const size_t tokens_;
  const size_t first_, joined_;   // the first candidate, and the first token that a candidate may join
  const int32_t behind_;          // the index that token joined_ has after merging
  int32_t* place_;                // [T]
  float* total_;                  // f32[T - count]: the number of original tokens in each merged token
  const float* sizes_ = nullptr;  // f32[T]: the number of original tokens in each token before merging
};

// Merges the tokens of the images `first` to `first` + `images` (exclusive) of `merging`. The tokens x and their keys k
// are f32[images, T, width]. The result y is f32[images, T - count, width].
void merge_tokens(const Kernels& kernels, const Merging& merging, size_t first, size_t images, size_t tokens,
                  size_t width, size_t heads, const float* x, const float* k, float* y, const TaskRunner& runner);

// Computes addends for attention scores. The scores will later be multiplied by `scale`, and the addend increases the
// product by log(size): to[t] = log(sizes[t]) / scale for t < tokens, and 0 from `tokens` up to `padded`. If every size
// is 1, returns false and writes nothing.
bool size_scores(const float* sizes, size_t tokens, size_t padded, float scale, float* to);

}  // namespace vmoe
