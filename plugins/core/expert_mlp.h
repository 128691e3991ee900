// The experts' MLP, out = w2 . gelu_tanh(w1 . x + b1) + b2, on each expert's real rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/packed_weights.h"
#include "core/task_runner.h"
#include "core/workspace.h"

namespace vmoe {

// Weights of E experts: w1 [E,D,F] and w2 [E,F,D] packed, b1 f32[E,F] and b2 f32[E,D] as they are (not owned).
// With bfloat16 weights, the inputs of both products are rounded to bfloat16; sums and biases are float32.
struct ExpertWeights {
  std::shared_ptr<const PackedWeights> w1;
  std::shared_ptr<const PackedWeights> w2;
  const float* b1 = nullptr;
  const float* b2 = nullptr;

  size_t experts() const { return w1->matrices(); }
  size_t hidden() const { return w1->depth(); }           // D
  size_t expert_hidden() const { return w1->columns(); }  // F
  bool bf16() const { return w1->bf16(); }
};

// Rows of all experts, expert by expert: expert e has the rows first[e] to first[e + 1].
struct ExpertRows {
  const float* x = nullptr;        // f32[.., D]
  const int32_t* index = nullptr;  // i32[rows]: row r is x[index[r]]; or none: x[r]
  const size_t* first = nullptr;   // [E + 1]

  size_t count(const ExpertWeights& weights) const { return first[weights.experts()]; }
};

// Bytes of workspace that ExpertMlp takes.
size_t ExpertMlpBytes(const ExpertWeights& weights, size_t rows, bool dispatch_bf16);

// out f32[rows, D], in the order of the rows. With `dispatch_bf16` the inputs and the outputs are rounded to bfloat16.
void ExpertMlp(const ExpertWeights& weights, const ExpertRows& rows, bool dispatch_bf16, float* out,
               Workspace& workspace, const TaskRunner& runner);

}  // namespace vmoe
