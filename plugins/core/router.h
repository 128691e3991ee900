// Routers: the gates of tokens, and who goes to which expert by them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/packed_weights.h"
#include "core/residual.h"
#include "core/routing.h"
#include "core/task_runner.h"

namespace vmoe {

// gates f32[tokens,E] = softmax(norm(x) . router) of x f32[tokens,D], with the router [1, D, E] float32 packed. Throws
// std::bad_alloc.
void compute_gates(const PackedWeights& router, const LayerNorm& norm, const float* x, size_t tokens, float* gates,
                   const TaskRunner& runner);

// The op VmoeRouterBlock: Route of those gates. x f32[G,S,D] -> slot i32[G,S,K], weight f32[G,S,K], src i32[E,M],
// expert i32[G,S,K], as route gives them. Throws std::bad_alloc, and what `make_src` throws.
void compute_router_block(const PackedWeights& router, const LayerNorm& norm, const RoutingShape& shape, const float* x,
                          int32_t* slot, float* weight, const MakeSources& make_src, int32_t* expert,
                          const TaskRunner& runner);

}  // namespace vmoe
