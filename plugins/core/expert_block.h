// The sparse second half of an encoder block: y = x + combine(experts(dispatch(norm(x)))), with routing given.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/expert_mlp.h"
#include "core/layer_norm.h"
#include "core/task_runner.h"

namespace vmoe {

// What one routing op gives; see VmoeRoute.
struct ExpertBlockRouting {
  size_t tokens = 0;              // G * S
  size_t choices = 0;             // K
  size_t places = 0;              // M, of each expert
  const int32_t* slot = nullptr;  // i32[G,S,K], -1 or a place below E * M
  const float* weight = nullptr;  // f32[G,S,K]
  const int32_t* src = nullptr;   // i32[E,M], -1 or a token
};

// The first slot that is a place without a token, or null.
const int32_t* slot_without_token(const ExpertBlockRouting& routing);

// The op VmoeExpertBlock: x and y f32[G,S,D]; y may be x. Every slot has a token. Throws std::bad_alloc.
void compute_expert_block(const ExpertWeights& weights, const LayerNorm& norm, const ExpertBlockRouting& routing,
                          bool dispatch_bf16, const float* x, float* y, const TaskRunner& runner);

}  // namespace vmoe
