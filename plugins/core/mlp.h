// MLPs, which may be gated and norm their hidden values, see MlpWeights: those of experts, on each one's real rows, or
// a dense layer's.
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
  const int32_t* index = nullptr;  // i32[rows]: row r is x[index[r]]; or none: x[r]
  const size_t* first = nullptr;   // [E + 1]
  LayerNorm norm;                  // of each row first; or none
  bool round_bf16 = false;         // then round it to bfloat16
};

// out f32[rows, D], in the order of the rows; where they are rounded to bfloat16, so is it. No byte of an expert
// without rows is read: neither weights nor biases nor scales. Throws std::bad_alloc.
void compute_expert_mlp(const MlpWeights& weights, const MlpRows& rows, float* out, const TaskRunner& runner);

// The same for the one expert of a dense layer, which every row of x f32[rows, D] visits: out f32[rows, D] = addend +
// MLP, where the addend f32[rows, D] is x, or none. out may be x. Throws std::bad_alloc.
void compute_dense_mlp(const MlpWeights& weights, const LayerNorm& norm, const float* x, size_t rows, bool residual,
                       float* out, const TaskRunner& runner);

}  // namespace vmoe
