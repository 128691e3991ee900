// Heads of attention in tiles.
#pragma once

#include "core/kernels.h"

namespace vmoe {

// One head of one image, whose queries, keys and values lie as lines: 32 columns of a token in 64 bytes. Scratch is
// taken here. Throws std::bad_alloc.
void attend_head(const Kernels& kernels, TileHead head);

// What TileHead::added is for keys that stand for `sizes` tokens each, f32[tokens]: written to `memory`, f32[tokens in
// whole panels], or none where there is nothing to add. `sizes` may be none.
const float* added_to_scores(const float* sizes, const TileHead& head, float* memory);

}  // namespace vmoe
