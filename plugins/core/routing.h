// Routing assigns tokens to experts. In top-K routing, each token chooses K experts, subject to capacity and policies;
// pairs are served by Batch Priority Routing (arXiv 2106.05974, algorithm 1) or in vanilla order. Alternatively,
// experts choose their tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "core/routing_shape.h"
#include "core/task_runner.h"

namespace vmoe {

// Returns the memory for src i32[E,M]. It is called when M, the number of slots of each expert, is known. With a pool,
// M depends on the routing.
using MakeSources = std::function<int32_t*(size_t slots)>;

// The op VmoeRoute: gates f32[G,S,E] -> slot, weight, src, expert.
// - slot i32[G,S,K]: -1 for a dropped choice.
// - weight f32[G,S,K]: the bits of the gates.
// - src i32[E,M]: the tokens, numbered across groups; -1 for an empty slot.
// - expert i32[G,S,K]: may be null.
// On ties, the lower expert and the lower token come first. NaN ranks as 0. With a pool, M is the largest number of
// pairs that an expert keeps in all groups together, but at least 1. Throws std::bad_alloc, and the exceptions of
// `make_src`.
void route(const RoutingShape& shape, const float* gates, int32_t* slot, float* weight, const MakeSources& make_src,
           int32_t* expert, const TaskRunner& runner);

// The op VmoeChooseTokens: each expert takes its best tokens of a group. gates f32[G,S,E] -> slot, src.
// - slot i32[G,S,E]: -1 if the expert does not take the token.
// - src i32[E,M]: the tokens, numbered across groups; -1 for an empty slot.
// On ties, the lower token comes first. NaN ranks as 0. Ignores `choices` and `batch_priority` of the shape. Throws
// std::bad_alloc.
void choose_tokens(const RoutingShape& shape, const float* gates, int32_t* slot, int32_t* src,
                   const TaskRunner& runner);

}  // namespace vmoe
