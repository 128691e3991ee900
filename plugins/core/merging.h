// Token merging ("Token Merging", arXiv 2210.09461): tokens of an image with the likest keys become one, their mean.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/kernels.h"
#include "core/task_runner.h"

namespace vmoe {

// Keys of an image's tokens, float32: head h of token t at values[t * token_stride + h * head_stride].
struct MergingKeys {
  const float* values = nullptr;
  size_t token_stride = 0;
  size_t head_stride = 0;
  size_t heads = 0;
  size_t size = 0;  // D / H
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

// One image: its tokens x f32[T, width] become y f32[T - count, width]. Behind the prefix every second token may join
// the likest of the others; those that stay come first then. Ties go to the lower token; NaN is the least like. Throws
// std::bad_alloc.
void merge_image(const Kernels& kernels, const Merging& merging, size_t image, size_t tokens, size_t width,
                 const float* x, const MergingKeys& keys, float* y);

// So many images from `first` on, whose x f32[images, T, width], k f32[images, T, width] and y f32[images, T - count,
// width] are given.
void merge_tokens(const Kernels& kernels, const Merging& merging, size_t first, size_t images, size_t tokens,
                  size_t width, size_t heads, const float* x, const float* k, float* y, const TaskRunner& runner);

// Adds log(size) to scores that are multiplied by `scale` afterwards: to[t] = log(sizes[t]) / scale for `tokens` of
// them, and 0 up to `padded`. False, and nothing, where every size is 1.
bool size_scores(const float* sizes, size_t tokens, size_t padded, float scale, float* to);

}  // namespace vmoe
