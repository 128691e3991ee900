// Multi-head attention on projected queries, keys and values.
#pragma once

#include <cstddef>

#include "core/kernels.h"
#include "core/task_runner.h"

namespace vmoe {

struct AttentionShape {
  size_t images = 0;   // N
  size_t queries = 0;  // Q, of each image
  size_t tokens = 0;   // T, keys and values of each image
  size_t hidden = 0;   // D
  size_t heads = 0;    // H; head h has the columns h * D/H to (h + 1) * D/H
};

// y = softmax(q . k / sqrt(D / H)) . v for each head: q and y f32[N,Q,D], k and v f32[N,T,D], all in float32; see
// compute_tile_attention for products of bfloat16. Throws std::bad_alloc.
void compute_attention(const Kernels& kernels, const AttentionShape& shape, const float* q, const float* k,
                       const float* v, float* y, const TaskRunner& runner);

}  // namespace vmoe
