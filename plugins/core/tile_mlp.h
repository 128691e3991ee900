// MLPs on weights in tiles.
#pragma once

#include "core/mlp.h"
#include "core/task_runner.h"

namespace vmoe {

// out f32[rows, D], in the order of the rows, plus `addend` f32[rows, D] if there is one, which may be `out`; never
// rounded. Throws std::bad_alloc.
void compute_tile_mlp(const MlpWeights& weights, const MlpRows& rows, float* out, const float* addend,
                      const TaskRunner& runner);

}  // namespace vmoe
