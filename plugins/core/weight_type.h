// The types of weights and their properties. The loops that pack and multiply weights are in packed_weights.cc,
// tile_rows-inl.h, tile_product-inl.h and the *_block-inl.h files.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/element_type.h"
#include "core/tiles.h"

namespace vmoe {

// Specifies which weights share a scale.
enum class Scales : uint8_t {
  kNone,
  kColumns,  // all weights of a column share a scale; the scales are an input of the op
  kGroups,   // each kScaleGroup consecutive weights of a column share a float16 scale, packed with the weights
};
inline constexpr size_t kScaleGroup = 64;

// The properties of a weight type. The defaults are those of float32. float32 weights are not stored in tiles.
struct WeightType {
  size_t bits = 32;  // size of a stored weight; two weights of 4 bits share a byte, the first one in its low half
  Scales scales = Scales::kNone;
  size_t panel_step_bytes = 0;  // distance in bytes between two steps of a panel; 0 if not in tiles
  size_t tile_step_bytes = 0;   // distance in bytes between two steps of the activations; 0 if not in tiles

  constexpr bool in_tiles() const { return panel_step_bytes > 0; }
  // Whether activations are rounded to int8. Each row of activations then has its own scale.
  constexpr bool quantized() const { return scales != Scales::kNone; }
};

constexpr WeightType weight_type(ElementType type) {
  WeightType found;
  switch (type) {
    case ElementType::kBfloat16:
      found.bits = 16;
      found.panel_step_bytes = kPanelStepBytes;
      found.tile_step_bytes = kTileBytes;
      break;
    case ElementType::kInt8:
      found.bits = 8;
      found.scales = Scales::kColumns;
      found.panel_step_bytes = kPanelStepBytes;
      found.tile_step_bytes = kTileBytes;
      break;
    case ElementType::kInt4:
      found.bits = 4;
      found.scales = Scales::kGroups;
      found.panel_step_bytes = kTileBytes + kLineBytes;
      found.tile_step_bytes = kTileBytes + kLineBytes;
      break;
    default: break;
  }
  return found;
}

}  // namespace vmoe
