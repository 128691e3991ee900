// Routers, which compute the gates of tokens.
#pragma once

#include <cstddef>

#include "core/packed_weights.h"
#include "core/residual.h"
#include "core/task_runner.h"

namespace vmoe {

// Computes gates f32[tokens,E] = softmax(norm(x) . router) for x f32[tokens,D]. `router` is one packed float32 matrix,
// [1, D, E]. Throws std::bad_alloc.
void compute_gates(const PackedWeights& router, const LayerNorm& norm, const float* x, size_t tokens, float* gates,
                   const TaskRunner& runner);

}  // namespace vmoe
