// MLPs of experts, each on the rows of its tokens, and of dense layers. They may have a gate and normalize their hidden
// values; see MlpWeights.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/layer_weights.h"
#include "core/residual.h"
#include "core/task_runner.h"

namespace vmoe {

// Rows of all experts, expert by expert: expert e has the rows first[e] to first[e + 1].
struct MlpRows {
  const float* x = nullptr;        // f32[.., D]
  const int32_t* index = nullptr;  // i32[rows], row r is x[index[r]]; or none: x[r]
  const size_t* first = nullptr;   // [E + 1]
  LayerNorm norm;                  // applied to each row first; or none
  bool round_bf16 = false;         // then round it to bfloat16
};

// out f32[rows, D], in the order of the rows; rounded to bfloat16 if the rows are. Weights, biases and scales of an
// expert without rows are not read. Throws std::bad_alloc.
void compute_expert_mlp(const MlpWeights& weights, const MlpRows& rows, float* out, const TaskRunner& runner);

// A dense layer, on every row of x f32[rows, D]: out f32[rows, D] = MLP(norm(x)), plus x if `residual`. out may be x.
// Throws std::bad_alloc.
void compute_dense_mlp(const MlpWeights& weights, const LayerNorm& norm, const float* x, size_t rows, bool residual,
                       float* out, const TaskRunner& runner);

}  // namespace vmoe
