// Weights into panels of tiles.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/packed_weights.h"
#include "core/tiles.h"

namespace vmoe {

// Packs one panel of a matrix into `steps` steps at `to`.
void pack_tile_panel(const StoredWeights& weights, size_t matrix, size_t panel, size_t steps, char* to);

// 128 times the sum of each of the 32 columns of a packed int8 panel.
void column_excess_of_panel(const char* panel, size_t steps, int32_t* excess);

}  // namespace vmoe
