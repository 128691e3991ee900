// Copies tokens to their slots, and combines the experts' outputs for each token.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/element_type.h"
#include "core/routing_shape.h"
#include "core/task_runner.h"

namespace vmoe {

// The op VmoeDispatch: x [tokens,D], src i32[slots] -> buf [slots,D]. Row i of buf is row src[i] of x, or zero if
// src[i] is -1. A row of D values has `row_bytes` bytes, which are copied unchanged.
void dispatch(const void* x, const int32_t* src, size_t slots, size_t row_bytes, void* buf, const TaskRunner& runner);

// The op VmoeRouteDispatch, which combines VmoeRoute and VmoeDispatch: gates f32[G,S,E], x [G,S,D] -> slot i32[G,S,K],
// weight f32[G,S,K], buf [E,M,D]. Throws std::bad_alloc.
void route_dispatch(const RoutingShape& shape, const float* gates, const void* x, size_t row_bytes, int32_t* slot,
                    float* weight, void* buf, const TaskRunner& runner);

// The op VmoeCombine: out [slots,D] of `type`, slot i32[tokens,K], weight f32[tokens,K] -> y [tokens,D] of `type`. y is
// the sum over k of weight * out[slot], added up in float32 and rounded once. A choice whose slot is -1 adds nothing.
void combine(ElementType type, const void* out, const int32_t* slot, const float* weight, size_t tokens, size_t choices,
             size_t hidden, void* y, const TaskRunner& runner);

}  // namespace vmoe
