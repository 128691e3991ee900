// A whole MoE layer, and its parts dispatch and combine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/expert_mlp.h"
#include "core/float_type.h"
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

// The op VmoeDispatch: x [tokens,D], src i32[places] -> buf [places,D], zero rows where src is -1. A row of D values
// has `row_bytes` bytes, which are copied as they are.
void Dispatch(const void* x, const int32_t* src, size_t places, size_t row_bytes, void* buf, const TaskRunner& runner);

// The op VmoeRouteDispatch, Route and Dispatch in one: gates [G,S,E] of `gate_type`, x [G,S,D] -> slot i32[G,S,K],
// weight [G,S,K] of `gate_type`, buf [E,M,D]. Throws std::bad_alloc.
void RouteDispatch(const RoutingShape& shape, FloatType gate_type, const void* gates, const void* x, size_t row_bytes,
                   int32_t* slot, void* weight, void* buf, const TaskRunner& runner);

// The op VmoeCombine: out [places,D] of `type`, slot i32[tokens,K], weight [tokens,K] of `weight_type` -> y [tokens,D]
// of `type`, the sum over k of weight * out[slot] in float32, rounded once; pairs with slot -1 add nothing.
void Combine(FloatType type, const void* out, const int32_t* slot, FloatType weight_type, const void* weight,
             size_t tokens, size_t choices, size_t hidden, void* y, const TaskRunner& runner);

}  // namespace vmoe
