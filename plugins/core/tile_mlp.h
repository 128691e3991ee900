// MLPs on bfloat16 or int8 weights, out = w2 . gelu_tanh(w1 . x + b1) + b2: a dense layer's, or those of many experts.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/task_runner.h"
#include "core/tile_matrix.h"

namespace vmoe {

struct TileMlpWeights {
  TileMatrix first;   // [E, D, F]
  TileMatrix second;  // [E, F, D]
  // int8: what of the hidden values shares a scale, a multiple of 64 that divides F; 0 is all of it. The same number
  // that the second matrix was packed with.
  size_t hidden_chunk = 0;
};

// Rows of all experts, expert by expert: expert e has the rows first[e] to first[e + 1].
struct TileMlpRows {
  const float* x = nullptr;           // f32[.., D]
  const int32_t* index = nullptr;     // i32[rows]: row r is x[index[r]]; or none: x[r]
  const size_t* first = nullptr;      // [E + 1]
  const float* norm_scale = nullptr;  // f32[D], layer normalization; or none
  const float* norm_bias = nullptr;
  bool round_bf16 = false;  // round the rows to bfloat16 before anything else
};

// out f32[rows, D], in the order of the rows, plus `addend` f32[rows, D] if there is one, which may be `out`.
// Throws std::bad_alloc.
void compute_tile_mlp(const TileMlpWeights& weights, const TileMlpRows& rows, float* out, const float* addend,
                      const TaskRunner& runner);

}  // namespace vmoe
