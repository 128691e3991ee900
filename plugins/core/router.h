// Routers, which compute the gates of tokens.
#pragma once

#include <cstddef>

#include "core/packed_weights.h"
#include "core/residual.h"
#include "core/task_runner.h"

namespace vmoe {

// gates f32[tokens,E] = softmax(norm(x) . router) of x f32[tokens,D], with the packed float32 router [1, D, E]. Throws
// std::bad_alloc.
void compute_gates(const PackedWeights& router, const LayerNorm& norm, const float* x, size_t tokens, float* gates,
                   const TaskRunner& runner);

}  // namespace vmoe
