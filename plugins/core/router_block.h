// The router of an encoder block: who goes to which expert, from tokens that are not normalized yet.
#pragma once

#include <cstdint>

#include "core/layer_norm.h"
#include "core/packed_weights.h"
#include "core/routing.h"
#include "core/routing_shape.h"
#include "core/task_runner.h"

namespace vmoe {

// The op VmoeRouterBlock: Route of softmax(norm(x) . router), all float32. x f32[G,S,D], router [1, D, E] packed ->
// slot i32[G,S,K], weight f32[G,S,K], src i32[E,M], expert i32[G,S,K], as route gives them. Throws std::bad_alloc, and
// what `make_src` throws.
void compute_router_block(const PackedWeights& router, const LayerNorm& norm, const RoutingShape& shape, const float* x,
                          int32_t* slot, float* weight, const MakeSources& make_src, int32_t* expert,
                          const TaskRunner& runner);

}  // namespace vmoe
