// How the tokens of groups are divided into tiles. A tile is a range of tokens of one group. One block sorts the
// (token, expert) pairs of a tile.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/host_device.h"

namespace vmoe::cuda {

// A key stands for one chosen (token, expert) pair. sort_tile.h describes its bits.
using Key = uint64_t;

// Maximum number of gates of one token that a lane stores.
inline constexpr uint32_t kLaneGates = 16;

struct Tile {
  uint32_t group;
  uint32_t first;   // index of the tile's first token within the group
  uint32_t tokens;  // number of tokens in the tile
};

// The parameters of a routing, which a launch passes to its blocks.
struct Groups {
  uint32_t count;        // G
  uint32_t tiles;        // per group
  uint32_t tile_tokens;  // tokens per tile; the last tile of a group may have fewer
  uint32_t tokens;       // S
  uint32_t experts;      // E
  uint32_t choices;      // K
  uint32_t capacity;     // c
  uint32_t slots;        // M
  uint32_t batch_priority;
  uint32_t lanes;  // number of lanes that choose one token's experts: a power of two, at most 32

  VMOE_HOST_DEVICE uint32_t tile_stride() const { return tile_tokens * choices; }

  VMOE_HOST_DEVICE Tile tile_at(uint32_t group, uint32_t index) const {
    const uint32_t first = index * tile_tokens;
    const uint32_t rest = tokens - first;
    return {group, first, rest < tile_tokens ? rest : tile_tokens};
  }

  // Returns the index of a (token, choice) pair among the pairs of all groups.
  VMOE_HOST_DEVICE size_t pair_index(uint32_t group, uint32_t token, uint32_t choice) const {
    return (static_cast<size_t>(group) * tokens + token) * choices + choice;
  }

  // Returns the index of a slot among the slots of all groups.
  VMOE_HOST_DEVICE size_t slot_index(uint32_t group, uint32_t expert, uint32_t position) const {
    return static_cast<size_t>(expert) * slots + static_cast<size_t>(group) * capacity + position;
  }
};

}  // namespace vmoe::cuda
