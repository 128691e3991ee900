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
  LayerNorm norm;                  // applied to each row first, or none
  bool round_bf16 = false;         // rounds each row to bfloat16 after that
};

// Computes out f32[rows, D], in the order of the rows; rounded to bfloat16 if the rows are. Does not read the weights,
// biases and scales of an expert without rows. Throws std::bad_alloc.
void compute_expert_mlp(const MlpWeights& weights, const MlpRows& rows, float* out, const TaskRunner& runner);

// Computes a dense layer on every row of x f32[rows, D]: out f32[rows, D] = MLP(norm(x)), plus x if `residual`. out may
// be x. Throws std::bad_alloc.
void compute_dense_mlp(const MlpWeights& weights, const LayerNorm& norm, const float* x, size_t rows, bool residual,
                       float* out, const TaskRunner& runner);

}  // namespace vmoe
