// Top-K routing with capacity: Batch Priority Routing (arXiv 2106.05974, algorithm 1) or vanilla order; its policies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "core/element_type.h"
#include "core/routing_shape.h"
#include "core/task_runner.h"
#include "core/workspace.h"

namespace vmoe {

// The K best experts of one token: the lower expert first on ties, NaN ranks as 0.
// expert i32[K], weight f32[K]: the raw gates. Returns the best gate as it ranks.
float choose_experts(const float* gates, size_t experts, size_t choices, int32_t* expert, float* weight);

// Gives each chosen pair of one group its place, or -1, in official routing.
//
//   expert    i32[S,K]  as choose_experts gives them
//   priority  f32[S]    best gates; read with batch_priority only
//   slot      i32[S,K]  out: e * M + g * c + p, or -1 where the expert was full
//   kept      i32[E]    out: pairs that got a place, by expert
//   order     u64[S]    scratch
void give_places(const RoutingShape& shape, size_t group, const int32_t* expert, const float* priority, int32_t* slot,
                 int32_t* kept, uint64_t* order);

// Makes src i32[E,M] when M, the places of each expert, is known: with a pool only the routing tells.
using MakeSources = std::function<int32_t*(size_t places)>;

// The op VmoeRoute: gates [G,S,E] of `type` -> slot i32[G,S,K], weight [G,S,K] of `type` (the bits of the gates),
// src i32[E,M] (flat tokens, -1 = empty place), expert i32[G,S,K], which may be null. With a pool, M is what the
// fullest expert keeps in all groups, at least 1. Throws std::bad_alloc, and what `make_src` throws.
void route(const RoutingShape& shape, ElementType type, const void* gates, int32_t* slot, void* weight,
           const MakeSources& make_src, int32_t* expert, const TaskRunner& runner);

// The same without a pool, where M is shape.places().
void route(const RoutingShape& shape, ElementType type, const void* gates, int32_t* slot, void* weight, int32_t* src,
           const TaskRunner& runner);

}  // namespace vmoe
