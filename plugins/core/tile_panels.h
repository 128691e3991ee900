// Weights into panels of tiles.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/packed_weights.h"
#include "core/tiles.h"

namespace vmoe {

// Packs one panel of a bfloat16 or int8 matrix that begins at `matrix` into `steps` steps at `to`.
void pack_tile_panel(const StoredWeights& weights, const char* matrix, size_t panel, size_t steps, char* to);

// Packs one panel of an int4 matrix, whose columns and depth are one part.
void pack_int4_panel(const StoredWeights& weights, size_t matrix, size_t panel, size_t steps, char* to);

// 128 times the sum of each of the 32 columns of a packed int8 panel.
void column_excess_of_panel(const char* panel, size_t steps, int32_t* excess);

}  // namespace vmoe
