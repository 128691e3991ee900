// Soft MoE (arXiv 2308.00951): experts process slots. Each slot is a mixture of all tokens of a group.
//
// All products are float32. The results for a group depend only on the tokens of that group.
#pragma once

#include <cstddef>
#include <memory>

#include "core/kernels.h"
#include "core/packed_weights.h"
#include "core/task_runner.h"

namespace vmoe {

struct SoftShape {
  size_t groups = 0;   // G
  size_t tokens = 0;   // S, per group
  size_t hidden = 0;   // D
  size_t experts = 0;  // E
  size_t slots = 0;    // P, the number of slots per expert and group

  size_t all_slots() const { return experts * slots; }    // of a group
  size_t expert_slots() const { return groups * slots; }  // M
};

// Divides each column of `mu` by the column's length, and packs the columns as one matrix. `mu`, f32[hidden,
// all_slots], contains the parameters of the slots. It is no longer needed after the call. Throws std::bad_alloc.
std::shared_ptr<const PackedWeights> pack_slots(const Kernels& kernels, const float* mu, size_t hidden,
                                                size_t all_slots);

// The op VmoeSoftRouter: x f32[G,S,D] -> dispatch f32[G,S,E,P], combine f32[G,S,E,P]. `slots` comes from pack_slots().
// The logits are scale * cosine(token, slot).
// - dispatch: the softmax of the logits over the tokens of a group.
// - combine: the softmax of the logits over the slots of all experts.
// Throws std::bad_alloc.
void compute_soft_router(const PackedWeights& slots, float scale, const SoftShape& shape, const float* x,
                         float* dispatch, float* combine, const TaskRunner& runner);

// The op VmoeSoftDispatch: x f32[G,S,D], dispatch f32[G,S,E,P] -> buf f32[E,M,D]. In buf, row g * P + p of an expert
// is slot p of group g. It is the sum of dispatch * x over the group's tokens. If `round_bf16` is set, x is first
// rounded to bfloat16. Throws std::bad_alloc.
void soft_dispatch(const Kernels& kernels, const SoftShape& shape, bool round_bf16, const float* x,
                   const float* dispatch, float* buf, const TaskRunner& runner);

// The op VmoeSoftCombine: out f32[E,M,D], combine f32[G,S,E,P] -> y f32[G,S,D]. The output of a token is the sum of
// combine * out over the group's slots. If `round_bf16` is set, out is first rounded to bfloat16. Throws
// std::bad_alloc.
void soft_combine(const Kernels& kernels, const SoftShape& shape, bool round_bf16, const float* out,
                  const float* combine, float* y, const TaskRunner& runner);

}  // namespace vmoe
