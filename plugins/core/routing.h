// Who goes to which expert: top-K routing with capacity, by Batch Priority Routing (arXiv 2106.05974, algorithm 1) or
// in vanilla order, with its policies; or experts that choose their tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "core/routing_shape.h"
#include "core/task_runner.h"

namespace vmoe {

// Makes src i32[E,M] when M, the slots of each expert, is known: with a pool only the routing tells.
using MakeSources = std::function<int32_t*(size_t slots)>;

// The op VmoeRoute: gates f32[G,S,E] -> slot i32[G,S,K], weight f32[G,S,K] (the bits of the gates), src i32[E,M] (flat
// tokens, -1 = empty slot), expert i32[G,S,K], which may be null. The lower expert and the lower token first on ties,
// NaN ranks as 0. With a pool, M is what the fullest expert keeps in all groups, at least 1. Throws std::bad_alloc, and
// what `make_src` throws.
void route(const RoutingShape& shape, const float* gates, int32_t* slot, float* weight, const MakeSources& make_src,
           int32_t* expert, const TaskRunner& runner);

// The op VmoeChooseTokens, where each expert takes its best tokens of a group: gates f32[G,S,E] -> slot i32[G,S,E], -1
// where the expert doesn't take the token, and src i32[E,M] (flat tokens, -1 = empty slot). The lower token first on
// ties, NaN ranks as 0. Of `shape` the choices and the order of tokens say nothing. Throws std::bad_alloc.
void choose_tokens(const RoutingShape& shape, const float* gates, int32_t* slot, int32_t* src,
                   const TaskRunner& runner);

}  // namespace vmoe
