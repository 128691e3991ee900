// Self-attention with its projections on bfloat16 or int8 weights, and attention alone.
#pragma once

#include <cstddef>

#include "core/attention.h"
#include "core/task_runner.h"
#include "core/tile_matrix.h"

namespace vmoe {

// Weights of query, key and value [1, D, D], whose columns are packed by head, and of the output, whose depth is.
struct TileAttentionWeights {
  TileMatrix query, key, value, out;
  size_t heads = 1;
};

// y f32[N,T,D] = x + out(attention(query(n), key(n), value(n))), where n is the layer normalization of x f32[N,T,D]
// with f32[D] scale and bias, epsilon 1e-6. y may be x. Throws std::bad_alloc.
void compute_tile_attention_block(const TileAttentionWeights& weights, const float* norm_scale, const float* norm_bias,
                                  size_t images, size_t tokens, const float* x, float* y, const TaskRunner& runner);

// Attention on projected queries, keys and values as `compute_attention` computes it, with products of bfloat16. Throws
// std::bad_alloc.
void compute_tile_attention(const TileKernels& kernels, const AttentionShape& shape, const float* q, const float* k,
                            const float* v, float* y, const TaskRunner& runner);

}  // namespace vmoe
