// Multi-head attention on projected queries, keys and values; and the attention half of an encoder block.
#pragma once

#include <cstddef>
#include <functional>

#include "core/kernels.h"
#include "core/layer_weights.h"
#include "core/merging.h"
#include "core/residual.h"
#include "core/rotation.h"
#include "core/task_runner.h"

namespace vmoe {

struct AttentionShape {
  size_t images = 0;   // N
  size_t queries = 0;  // Q, of each image
  size_t tokens = 0;   // T, keys and values of each image
  size_t hidden = 0;   // D
  size_t heads = 0;    // H; head h has the columns h * D/H to (h + 1) * D/H
  // Number of tokens that each key represents, f32[N,T]; its logarithm is added to the scores. Null means 1 for each.
  const float* sizes = nullptr;
};

// y = softmax(q . k / sqrt(D / H)) . v for each head: q and y f32[N,Q,D], k and v f32[N,T,D]. Calls `before` for each
// head of each image, on the thread that is about to read its columns. Throws std::bad_alloc.
void compute_attention(const Kernels& kernels, const AttentionShape& shape, const float* q, const float* k,
                       const float* v, float* y, const TaskRunner& runner,
                       const std::function<void(size_t image, size_t head)>& before = {});

// As compute_attention, but with bfloat16 products.
void compute_tile_attention(const Kernels& kernels, const AttentionShape& shape, const float* q, const float* k,
                            const float* v, float* y, const TaskRunner& runner);

// Four matrices [1, D, D] of one type. If that type is bfloat16 or int8, the products of attention are bfloat16.
struct AttentionBlockWeights {
  LinearWeights query, key, value, out;
  LayerNorm norm;
  size_t heads = 1;
  Rotation rotation = {};
  LayerNorm mixed_norm = {};  // of the output of attention, or none
};

// y = x + out(attention(query(n), key(n), value(n))) with n = norm(x), for the first `queries` tokens of each image.
// - x f32[N,T,D], y f32[N,queries,D]; y may be x if the queries are all tokens.
// - With a rotation, queries and keys are rotated before attention.
// - With merging, the queries must be all tokens, y is f32[N, T - merging.count, D], and y is not x.
// Throws std::bad_alloc.
void compute_attention_block(const AttentionBlockWeights& weights, size_t images, size_t queries, size_t tokens,
                             const float* x, const Merging& merging, float* y, const TaskRunner& runner);

// As compute_attention_block, but for bfloat16 and int8 weights.
void compute_tile_attention_block(const AttentionBlockWeights& weights, size_t images, size_t queries, size_t tokens,
                                  const float* x, const Merging& merging, float* y, const TaskRunner& runner);

}  // namespace vmoe
