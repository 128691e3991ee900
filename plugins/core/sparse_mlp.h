// A whole MoE layer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/expert_mlp.h"
#include "core/routing.h"
#include "core/task_runner.h"

namespace vmoe {

struct SparseMlpWeights {
  std::shared_ptr<const PackedWeights> router;  // [1, D, E] float32
  ExpertWeights experts;
};

// The op VmoeSparseMlp: x f32[G,S,D] -> y f32[G,S,D], slot i32[G,S,K], weight f32[G,S,K]; slot and weight may be null.
// Throws std::bad_alloc.
void compute_sparse_mlp(const SparseMlpWeights& weights, const RoutingShape& shape, bool dispatch_bf16, const float* x,
                        float* y, int32_t* slot, float* weight, const TaskRunner& runner);

}  // namespace vmoe
