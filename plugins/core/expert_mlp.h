// The experts' MLP, out = w2 . gelu_tanh(w1 . x + b1) + b2, on each expert's real rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/layer_norm.h"
#include "core/packed_weights.h"
#include "core/task_runner.h"

namespace vmoe {

// Weights of E experts: w1 [E,D,F] and w2 [E,F,D] packed, of one type, the rest as it is (not owned). What enters a
// product is rounded to bfloat16 with bfloat16 weights, quantized with int8 ones; sums and biases are float32.
struct ExpertWeights {
  std::shared_ptr<const PackedWeights> w1;
  std::shared_ptr<const PackedWeights> w2;
  const float* b1 = nullptr;        // f32[E,F]
  const float* b2 = nullptr;        // f32[E,D]
  const float* w1_scale = nullptr;  // int8: f32[E,F]
  const float* w2_scale = nullptr;  // int8: f32[E,D]
  size_t hidden_chunk = 0;          // int8: see TileMlpWeights

  size_t experts() const { return w1->matrices(); }
  size_t hidden() const { return w1->depth(); }           // D
  size_t expert_hidden() const { return w1->columns(); }  // F
  ElementType type() const { return w1->type(); }
};

// Rows of all experts, expert by expert: expert e has the rows first[e] to first[e + 1].
struct ExpertRows {
  const float* x = nullptr;        // f32[.., D]
  const int32_t* index = nullptr;  // i32[rows]: row r is x[index[r]]; or none: x[r]
  const size_t* first = nullptr;   // [E + 1]
  LayerNorm norm;                  // of each row first; or none

  size_t count(const ExpertWeights& weights) const { return first[weights.experts()]; }
};

// out f32[rows, D], in the order of the rows. With `dispatch_bf16` the inputs and the outputs are rounded to bfloat16.
// No byte of an expert without rows is read: neither weights nor biases nor scales. Throws std::bad_alloc.
void compute_expert_mlp(const ExpertWeights& weights, const ExpertRows& rows, bool dispatch_bf16, float* out,
                        const TaskRunner& runner);

// The same for the one expert of a dense layer, which every row of x f32[rows, D] visits: out f32[rows, D] = addend +
// MLP, where the addend f32[rows, D] is x, or none. out may be x. Throws std::bad_alloc.
void compute_dense_mlp(const ExpertWeights& weights, const LayerNorm& norm, const float* x, size_t rows, bool residual,
                       float* out, const TaskRunner& runner);

}  // namespace vmoe
