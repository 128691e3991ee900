// The MLPs of experts, each applied to the rows of its tokens, and the MLPs of dense layers. An MLP may have a gate and
// may normalize its hidden values; see MlpWeights.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/layer_weights.h"
#include "core/residual.h"
#include "core/task_runner.h"

namespace vmoe {

// The rows of all experts, in the order of the experts. Expert e gets the rows first[e] to first[e + 1] (exclusive).
struct MlpRows {
  const float* x = nullptr;        // f32[.., D]
  const int32_t* index = nullptr;  // i32[rows]: row r is x[index[r]]; if null, row r is x[r]
  const size_t* first = nullptr;   // [E + 1]
  LayerNorm norm;                  // applied to each row first; may be empty
  bool round_bf16 = false;         // whether to round each row to bfloat16 after `norm`
};

// Computes the experts' outputs for `rows` and stores them in `out`, f32[rows, D], in the order of the rows. If
// `rows.round_bf16` is set, `out` is also rounded to bfloat16. Does not read the weights, biases and scales of an
// expert without rows. Throws std::bad_alloc.
void compute_expert_mlp(const MlpWeights& weights, const MlpRows& rows, float* out, const TaskRunner& runner);

// Computes a dense layer on every row of x, f32[rows, D]: out = MLP(norm(x)), or out = x + MLP(norm(x)) if `residual`
// is set. `out` is f32[rows, D], and may be x. Throws std::bad_alloc.
void compute_dense_mlp(const MlpWeights& weights, const LayerNorm& norm, const float* x, size_t rows, bool residual,
                       float* out, const TaskRunner& runner);

}  // namespace vmoe
