// The types that weights may have, and what differs between them beside the loops that pack and multiply them, which
// are in packed_weights.cc, tile_rows-inl.h, tile_product-inl.h and the blocks.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/element_type.h"
#include "core/tiles.h"

namespace vmoe {

// Which weights share a scale.
enum class Scales : uint8_t {
  kNone,
  kColumns,  // a column; an op hands scales to its products
  kGroups,   // kScaleGroup of a column, along the depth; scales are float16 and packed with the weights
};
inline constexpr size_t kScaleGroup = 64;

struct WeightType {
  size_t bits;  // of a stored weight; two of 4 bits share a byte, the first in its low half
  Scales scales;
  // In tiles, where everything but float32 lies: bytes from one step of a panel to the next, and from one step of the
  // row tiles that panels are multiplied with to the next.
  size_t panel_step_bytes;
  size_t tile_step_bytes;

  constexpr bool in_tiles() const { return panel_step_bytes > 0; }
  // Whether what enters a product is rounded to int8, each row with a scale of its own.
  constexpr bool quantized() const { return scales != Scales::kNone; }
};

constexpr WeightType weight_type(ElementType type) {
  switch (type) {
    case ElementType::kBfloat16: return {16, Scales::kNone, kPanelStepBytes, kTileBytes};
    case ElementType::kInt8: return {8, Scales::kColumns, kPanelStepBytes, kTileBytes};
    case ElementType::kInt4: return {4, Scales::kGroups, kTileBytes + kLineBytes, kTileBytes + kLineBytes};
    default: return {32, Scales::kNone, 0, 0};  // float32
  }
}

}  // namespace vmoe
