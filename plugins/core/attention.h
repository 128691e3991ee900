// Computes multi-head attention from queries, keys and values that are already projected. Also computes the attention
// half of an encoder block, which includes normalization, projections and the residual sum.
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
  size_t tokens = 0;   // T, the number of tokens per image; each token has a key and a value
  size_t hidden = 0;   // D
  size_t heads = 0;    // H; head h owns the columns from h * D/H to (h + 1) * D/H, exclusive
  // f32[N,T]: the number of original tokens that each key represents. Its logarithm is added to the key's scores. Null
  // means 1 for every key.
  const float* sizes = nullptr;
};

// Computes y = softmax(q . k / sqrt(D / H)) . v for each head. Here q and y are f32[N,Q,D], and k and v are
// f32[N,T,D]. If `before` is given, a thread calls before(image, head) before it reads that head's columns in that
// image. Throws std::bad_alloc.
void compute_attention(const Kernels& kernels, const AttentionShape& shape, const float* q, const float* k,
                       const float* v, float* y, const TaskRunner& runner,
                       const std::function<void(size_t image, size_t head)>& before = {});

// Does the same as compute_attention, but multiplies in bfloat16.
void compute_tile_attention(const Kernels& kernels, const AttentionShape& shape, const float* q, const float* k,
                            const float* v, float* y, const TaskRunner& runner);

// The weights of an attention block. The four matrices are [1, D, D] and have the same type. If that type is bfloat16
// or int8, the two products inside attention use bfloat16.
struct AttentionBlockWeights {
  LinearWeights query, key, value, out;
  LayerNorm norm;
  size_t heads = 1;
  Rotation rotation = {};
  LayerNorm mixed_norm = {};  // normalizes attention's output before the product with `out`; may be empty
};

// Computes y = x + out(attention(query(n), key(n), value(n))), where n = norm(x). Only the first `queries` tokens of
// each image are queries.
// - x is f32[N,T,D] and y is f32[N,queries,D]. If all tokens are queries, y may be x.
// - If the weights contain a rotation, queries and keys are rotated before attention.
// - If merging.count > 0, all tokens must be queries. In that case y is f32[N, T - merging.count, D] and must not be x.
// Throws std::bad_alloc.
void compute_attention_block(const AttentionBlockWeights& weights, size_t images, size_t queries, size_t tokens,
                             const float* x, const Merging& merging, float* y, const TaskRunner& runner);

// Does the same as compute_attention_block, but accepts only bfloat16 and int8 weights.
void compute_tile_attention_block(const AttentionBlockWeights& weights, size_t images, size_t queries, size_t tokens,
                                  const float* x, const Merging& merging, float* y, const TaskRunner& runner);

}  // namespace vmoe
