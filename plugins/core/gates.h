// The gates of a router: softmax(norm(x) . router).
#pragma once

#include <cstddef>

#include "core/layer_norm.h"
#include "core/packed_weights.h"

namespace vmoe {

// gates f32[tokens, E] of tokens x f32[tokens, D], with the router [1, D, E] float32 packed. Without a norm tokens are
// taken as they are; with one, `scratch` f32[tokens, D] holds what was normalized.
void compute_gates(const PackedWeights& router, const LayerNorm& norm, const float* x, size_t tokens, float* scratch,
                   float* gates);

}  // namespace vmoe
