// Token merging ("Token Merging", arXiv 2210.09461): tokens of an image with the likest keys become one, their mean.
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
  bool summed = false;  // values are the sums over the heads, in their order
};

// What a block merges by, and where it puts what becomes of it. Of every image T tokens are left as T - count.
struct Merging {
  size_t count = 0;                 // see count_merged
  size_t prefix = 0;                // tokens in front that are never merged
  size_t all_tokens = 0;            // of an image before any was merged
  const float* sizes = nullptr;     // f32[N, T], how many tokens each is the mean of
  const int32_t* token = nullptr;   // i32[N, all_tokens], below T: where each of these is; or -1
  float* merged_sizes = nullptr;    // f32[N, T - count], or none
  int32_t* merged_token = nullptr;  // i32[N, all_tokens], or none
  // Which tokens take along, as they do their own values: f32[N, T, coordinate_count] and f32[N, T - count,
  // coordinate_count], or none.
  const float* coordinates = nullptr;
  size_t coordinate_count = 0;
  float* merged_coordinates = nullptr;
};

// How many of `tokens` are merged where `merge` are asked for.
size_t count_merged(size_t tokens, int64_t merge, size_t prefix);

// What becomes of the T tokens of an image. Behind the prefix every second one may join the likest of the others; those
// that stay come first then. Ties go to the lower token; NaN is the least like.
class ImageMerging {
 public:
  // Both outlive this. Throws std::bad_alloc.
  ImageMerging(const Merging& merging, size_t tokens, Workspace& memory);

  // Finds it for an image; writes its merged sizes and coordinates, and where its tokens are. Throws std::bad_alloc.
  void find(const Kernels& kernels, size_t image, const MergingKeys& keys);

  bool joins(size_t token) const;
  // Of what a token becomes, or joins: below T - count.
  size_t place(size_t token) const { return static_cast<size_t>(place_[token]); }

  // Adds those that join others to these: `joining` f32[count, columns] has their rows, `to` f32[T - count, columns]
  // those of all others, in their places.
  void join_rows(const float* joining, size_t columns, float* to) const;
  // The same from f32[T, columns]. Throws std::bad_alloc.
  void merge_rows(const float* from, size_t columns, float* to) const;

 private:
  const Merging& merging_;
  const size_t tokens_;
  const size_t first_, joined_;   // of the tokens that may join another, and of those that may be joined
  const int32_t behind_;          // where the latter come
  int32_t* place_;                // [T]
  float* total_;                  // f32[T - count], how many tokens each is the mean of then
  const float* sizes_ = nullptr;  // f32[T], and now
};

// So many images from `first` on, whose x f32[images, T, width], k f32[images, T, width] and y f32[images, T - count,
// width] are given.
void merge_tokens(const Kernels& kernels, const Merging& merging, size_t first, size_t images, size_t tokens,
                  size_t width, size_t heads, const float* x, const float* k, float* y, const TaskRunner& runner);

// Adds log(size) to scores that are multiplied by `scale` afterwards: to[t] = log(sizes[t]) / scale for `tokens` of
// them, and 0 up to `padded`. False, and nothing, where every size is 1.
bool size_scores(const float* sizes, size_t tokens, size_t padded, float scale, float* to);

}  // namespace vmoe
