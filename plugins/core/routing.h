// Routing assigns tokens to experts. There are two kinds of routing:
// - In top-K routing, each token chooses K experts, subject to capacity and policies. The pairs of a token and a chosen
//   expert are served by Batch Priority Routing (arXiv 2106.05974, algorithm 1) or in vanilla order.
// - In the other kind, experts choose their tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "core/routing_shape.h"
#include "core/task_runner.h"

namespace vmoe {

// A function that returns the memory for src, i32[E,M]. `slots` is M, the number of slots of each expert. If the
// experts share a pool of slots, M depends on the routing, so this function is called only when M is known.
using MakeSources = std::function<int32_t*(size_t slots)>;

// The op VmoeRoute: gates f32[G,S,E] -> slot, weight, src, expert.
// - slot i32[G,S,K]: the slot of each choice, or -1 for a dropped choice.
// - weight f32[G,S,K]: the gate of each choice, bit for bit.
// - src i32[E,M]: the token in each slot, numbered across groups, or -1 for an empty slot.
// - expert i32[G,S,K]: the expert of each choice. The pointer may be null.
// On ties, the expert or token with the lower index comes first. NaN ranks as 0. If there is a pool, M is the largest
// number of pairs that any expert keeps in all groups together, but at least 1. Throws std::bad_alloc, and any
// exception that `make_src` throws.
void route(const RoutingShape& shape, const float* gates, int32_t* slot, float* weight, const MakeSources& make_src,
           int32_t* expert, const TaskRunner& runner);

// The op VmoeChooseTokens: gates f32[G,S,E] -> slot, src. From each group, each expert takes the tokens that have the
// highest gates for this expert.
// - slot i32[G,S,E]: the slot of each token in each expert, or -1 if the expert does not take the token.
// - src i32[E,M]: the token in each slot, numbered across groups, or -1 for an empty slot.
// If gates are equal, the token with the lower index comes first. NaN ranks as 0. The shape's `choices` and
// `batch_priority` are ignored. Throws std::bad_alloc.
void choose_tokens(const RoutingShape& shape, const float* gates, int32_t* slot, int32_t* src,
                   const TaskRunner& runner);

}  // namespace vmoe
