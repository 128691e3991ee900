// The experts' outputs back to their tokens.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/element_type.h"
#include "core/task_runner.h"

namespace vmoe {

// The op VmoeCombine: out [places,D] of `type`, slot i32[tokens,K], weight [tokens,K] of `weight_type` -> y [tokens,D]
// of `type`, the sum over k of weight * out[slot] in float32, rounded once; pairs with slot -1 add nothing.
// Throws std::bad_alloc.
void combine(ElementType type, const void* out, const int32_t* slot, ElementType weight_type, const void* weight,
             size_t tokens, size_t choices, size_t hidden, void* y, const TaskRunner& runner);

}  // namespace vmoe
