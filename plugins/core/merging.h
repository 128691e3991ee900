// Token merging ("Token Merging", arXiv 2210.09461): replaces tokens of an image with similar keys by their mean.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/kernels.h"
#include "core/task_runner.h"
#include "core/workspace.h"

namespace vmoe {

// Keys of an image's tokens, float32: head h of token t at values[t * token_stride + h * size].
struct MergingKeys {
  const float* values = nullptr;
  size_t token_stride = 0;
  size_t heads = 0;
  size_t size = 0;      // D / H
  bool summed = false;  // values are sums over the heads, added up in the order of the heads
};

// The inputs and outputs of merging in a block. Each image's T tokens become T - count.
struct Merging {
  size_t count = 0;                 // see count_merged
  size_t prefix = 0;                // number of tokens at the start that are never merged
  size_t all_tokens = 0;            // of an image before the first merging
  const float* sizes = nullptr;     // f32[N, T], the number of original tokens in each token
  const int32_t* token = nullptr;   // i32[N, all_tokens]: index of the token that holds each original token, or -1
  float* merged_sizes = nullptr;    // f32[N, T - count], or none
  int32_t* merged_token = nullptr;  // i32[N, all_tokens], or none
  // The tokens' coordinates, which are merged like the tokens: f32[N, T, coordinate_count] and
  // f32[N, T - count, coordinate_count], or null.
  const float* coordinates = nullptr;
  size_t coordinate_count = 0;
  float* merged_coordinates = nullptr;
};

// Returns how many of `tokens` are merged if `merge` are requested.
size_t count_merged(size_t tokens, int64_t merge, size_t prefix);

// The merging of the T tokens of an image. After the prefix, every second token is a candidate, which may join the most
// similar of the other tokens. In the result, the candidates that join none come first. Ties go to the lower token; NaN
// counts as least similar.
class ImageMerging {
 public:
  // `merging` and `memory` must outlive this object. Throws std::bad_alloc.
  ImageMerging(const Merging& merging, size_t tokens, Workspace& memory);

  // Finds the merging of an image. Writes its merged sizes, coordinates and tokens. Throws std::bad_alloc.
  void find(const Kernels& kernels, size_t image, const MergingKeys& keys);

  bool joins(size_t token) const;
  // Returns the index, below T - count, of the merged token that a token becomes or joins.
  size_t place(size_t token) const { return static_cast<size_t>(place_[token]); }

  // Merges rows: `joining` f32[count, columns] has the rows of tokens that join another. `to` f32[T - count, columns]
  // has the other rows, each already at its place().
  void join_rows(const float* joining, size_t columns, float* to) const;
  // Merges rows f32[T, columns] that are in the order of the tokens. Throws std::bad_alloc.
  void merge_rows(const float* from, size_t columns, float* to) const;

 private:
  const Merging& merging_;
  const size_t tokens_;
  const size_t first_, joined_;   // the first candidate, and the first token that a candidate may join
  const int32_t behind_;          // the place of token joined_
  int32_t* place_;                // [T]
  float* total_;                  // f32[T - count], the number of original tokens in each token after merging
  const float* sizes_ = nullptr;  // f32[T], the number before merging
};

// Merges the tokens of the images `first` to `first` + `images` of `merging`: x f32[images, T, width] with keys
// k f32[images, T, width] becomes y f32[images, T - count, width].
void merge_tokens(const Kernels& kernels, const Merging& merging, size_t first, size_t images, size_t tokens,
                  size_t width, size_t heads, const float* x, const float* k, float* y, const TaskRunner& runner);

// Computes what to add to scores so that, once multiplied by `scale`, they have been increased by log(size):
// to[t] = log(sizes[t]) / scale for t < tokens, and 0 up to `padded`. Returns false and writes nothing if every size
// is 1.
bool size_scores(const float* sizes, size_t tokens, size_t padded, float scale, float* to);

}  // namespace vmoe
