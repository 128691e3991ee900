// Experts choice: each expert takes its best tokens of a group.
#pragma once

#include <cstdint>

#include "core/routing_shape.h"
#include "core/task_runner.h"

namespace vmoe {

// The op VmoeChooseTokens: gates f32[G,S,E] -> slot i32[G,S,E], -1 where the expert doesn't take the token, and
// src i32[E,M] (flat tokens, -1 = empty place). The lower token first on ties, NaN ranks as 0. Of `shape` the choices
// and the order of tokens say nothing. Throws std::bad_alloc.
void choose_tokens(const RoutingShape& shape, const float* gates, int32_t* slot, int32_t* src,
                   const TaskRunner& runner);

}  // namespace vmoe
