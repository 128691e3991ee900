#include "core/tile_panels.h"

#include <algorithm>
#include <cstring>

namespace vmoe {
namespace {

constexpr size_t kGroupBytes = 4;  // of the depth that stand side by side

template <class T>
void pack(const StoredWeights& weights, size_t matrix, size_t panel, size_t steps, char* to) {
  constexpr size_t kGroup = kGroupBytes / sizeof(T);
  const size_t column = panel * kPanelColumns;
  const size_t count = std::min(kPanelColumns, weights.columns - column);
  const T* from = static_cast<const T*>(weights.data) + matrix * weights.depth * weights.columns + column;
  T rows[kGroup][kPanelColumns] = {};
  for (size_t line = 0; line < steps * kRowsPerTile; ++line) {
    for (size_t i = 0; i < kGroup; ++i) {
      const size_t place = line * kGroup + i;
      if (place < weights.depth) {
        std::memcpy(rows[i], from + place * weights.columns, count * sizeof(T));
      } else {
        std::memset(rows[i], 0, sizeof(rows[i]));
      }
    }
    char* lines = to + line / kRowsPerTile * kPanelStepBytes + line % kRowsPerTile * kLineBytes;
    for (size_t half = 0; half < 2; ++half) {
      T* out = reinterpret_cast<T*>(lines + half * kTileBytes);
      for (size_t c = 0; c < kPanelColumns / 2; ++c) {
        for (size_t i = 0; i < kGroup; ++i) out[c * kGroup + i] = rows[i][half * kPanelColumns / 2 + c];
      }
    }
  }
}

void pack_int4(const StoredWeights& weights, size_t matrix, size_t panel, size_t steps, char* to) {
  const size_t column = panel * kPanelColumns;
  const size_t count = std::min(kPanelColumns, weights.columns - column);
  const auto* data = static_cast<const uint8_t*>(weights.data);
  const auto* scale = static_cast<const uint16_t*>(weights.scale) + matrix * steps * weights.columns + column;
  for (size_t step = 0; step < steps; ++step, to += weight_type(ElementType::kInt4).panel_step_bytes) {
    std::memset(to, kInt4Excess << 4 | kInt4Excess, kTileBytes);
    std::memset(to + kTileBytes, 0, kLineBytes);
    std::memcpy(to + kTileBytes, scale + step * weights.columns, count * sizeof(*scale));
    for (size_t i = 0; i < std::min(kScaleGroup, weights.depth - step * kScaleGroup); ++i) {
      const size_t first = (matrix * weights.depth + step * kScaleGroup + i) * weights.columns + column;
      const size_t line = i / kGroupBytes;
      for (size_t c = 0; c < count; ++c) {
        // Two's complement of four bits, and 8 more than that, differ in one bit.
        const int value = (data[(first + c) / 2] >> (first + c) % 2 * 4 & 0xf) ^ kInt4Excess;
        char& byte = to[c / 16 * (kTileBytes / 2) + line / 2 * kLineBytes + c % 16 * kGroupBytes + i % kGroupBytes];
        byte = static_cast<char>(line % 2 == 0 ? (byte & 0xf0) | value : (byte & 0xf) | value << 4);
      }
    }
  }
}

}  // namespace

void pack_tile_panel(const StoredWeights& weights, size_t matrix, size_t panel, size_t steps, char* to) {
  switch (weights.type) {
    case ElementType::kInt4: return pack_int4(weights, matrix, panel, steps, to);
    case ElementType::kInt8: return pack<uint8_t>(weights, matrix, panel, steps, to);
    default: return pack<uint16_t>(weights, matrix, panel, steps, to);
  }
}

void column_excess_of_panel(const char* panel, size_t steps, int32_t* excess) {
  std::fill(excess, excess + kPanelColumns, 0);
  const auto* weights = reinterpret_cast<const int8_t*>(panel);
  for (size_t tile = 0; tile < 2 * steps; ++tile) {
    for (size_t i = 0; i < kTileBytes; ++i) {
      excess[tile % 2 * kPanelColumns / 2 + i % kLineBytes / kGroupBytes] += weights[tile * kTileBytes + i];
    }
  }
  for (size_t column = 0; column < kPanelColumns; ++column) excess[column] *= 128;
}

}  // namespace vmoe
