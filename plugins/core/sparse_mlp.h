// A whole MoE layer, and its parts dispatch and combine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/expert_mlp.h"
#include "core/routing.h"
#include "core/task_runner.h"

namespace vmoe {

struct SparseMlpWeights {
  std::shared_ptr<const PackedWeights> router;  // [1, D, E] float32
  ExpertWeights experts;
};

// The op VmoeSparseMlp: x f32[G,S,D] -> y f32[G,S,D], slot i32[G,S,K], weight f32[G,S,K]; slot and weight may be null.
// Throws std::bad_alloc.
void SparseMlp(const SparseMlpWeights& weights, const RoutingShape& shape, bool dispatch_bf16, const float* x, float* y,
               int32_t* slot, float* weight, const TaskRunner& runner);

// The op VmoeDispatch: x f32[tokens,D], src i32[places] -> buf f32[places,D], zero rows where src is -1.
void Dispatch(const float* x, const int32_t* src, size_t places, size_t hidden, float* buf, const TaskRunner& runner);

// The op VmoeCombine: out f32[places,D], slot i32[tokens,K], weight f32[tokens,K] -> y f32[tokens,D], the sum over k of
// weight * out[slot]; pairs with slot -1 add nothing.
void Combine(const float* out, const int32_t* slot, const float* weight, size_t tokens, size_t choices, size_t hidden,
             float* y, const TaskRunner& runner);

}  // namespace vmoe
