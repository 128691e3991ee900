// The first half of an encoder block: y = x + out(attention(query(n), key(n), value(n))) with n = norm(x).
#pragma once

#include <cstddef>

#include "core/layer_norm.h"
#include "core/linear.h"
#include "core/task_runner.h"

namespace vmoe {

// Four matrices [1, D, D] of one type. In bfloat16 and int8 the columns of query, key and value are packed in `heads`
// parts, and so is the depth of the output's; attention's products are bfloat16 then.
struct AttentionBlockWeights {
  LinearWeights query, key, value, out;
  LayerNorm norm;
  size_t heads = 1;
};

// x and y f32[N,T,D]; y may be x. Throws std::bad_alloc.
void compute_attention_block(const AttentionBlockWeights& weights, size_t images, size_t tokens, const float* x,
                             float* y, const TaskRunner& runner);

}  // namespace vmoe
