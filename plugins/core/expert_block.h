// The sparse half of an encoder block, which applies experts to routed tokens.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/mlp.h"
#include "core/residual.h"
#include "core/task_runner.h"

namespace vmoe {

// The outputs of a routing op; see VmoeRoute.
struct RoutedTokens {
  size_t tokens = 0;              // G * S
  size_t choices = 0;             // K
  size_t slots = 0;               // M, of each expert
  const int32_t* slot = nullptr;  // i32[G,S,K]: the slot of each choice, below E * M, or -1 for a dropped choice
  const float* weight = nullptr;  // f32[G,S,K]
  const int32_t* src = nullptr;   // i32[E,M]: the token in each slot, or -1 for an empty slot
};

// Returns a pointer to the first element of routing.slot whose slot has no token in routing.src. Returns null if there
// is no such element.
const int32_t* slot_without_token(const RoutedTokens& routing);

// The op VmoeExpertBlock, the sparse second half of an encoder block: y = x + combine(experts(dispatch(norm(x)))). x
// and y are f32[G,S,D]; y may be x. Every slot in routing.slot must have a token in routing.src. If `dispatch_bf16` is
// set, the inputs and outputs of the experts are rounded to bfloat16. Throws std::bad_alloc.
void compute_expert_block(const MlpWeights& weights, const LayerNorm& norm, const RoutedTokens& routing,
                          bool dispatch_bf16, const float* x, float* y, const TaskRunner& runner);

}  // namespace vmoe
