// The programs that the blocks of each launch run. A program is a sequence of phases. Each phase ends with a barrier,
// except for the last one. The GPU and the tests run the same programs.
//
// A Block provides:
// - run_phase(f), which calls f(thread, threads) for every thread and then waits for all threads;
// - run_last_phase(f), which does not wait;
// - run_team_phase(lanes, f), which calls f(team) for every team of `lanes` lanes and then waits for all teams.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/host_device.h"
#include "cuda/memory.h"
#include "cuda/route_phases.h"
#include "cuda/row_phases.h"

namespace vmoe::cuda {

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
    return {group,          first, rest < tile_tokens ? rest : tile_tokens, tokens, experts, choices, capacity, slots,
            batch_priority, lanes};
  }
};

// The position of a block in its grid, and the size of the grid. In route_group, x is the block's group. In the other
// programs, the block processes groups y, y + grid_y, y + 2 * grid_y and so on.
struct BlockPlace {
  uint32_t x;
  uint32_t y;
  uint32_t grid_x;
  uint32_t grid_y;
};

// A block's shared memory: two buffers of tile_stride keys, and offsets[E+1].
template <class Keys, class Offsets>
struct TileMemory {
  Keys keys;
  Keys other;
  Offsets offsets;
};

// Runs phases 1 to 3 for one tile. Afterwards, `shared` contains the sorted keys and the offsets. Returns the buffer of
// `shared` that contains the sorted keys.
template <class Block, class Gates, class Weights, class Experts, class Keys, class Offsets>
VMOE_HOST_DEVICE Keys sort_tile(const Block& block, const Tile& tile, const Gates& gates, bool writes_choices,
                                const Weights& weight, const Experts& expert_of,
                                const TileMemory<Keys, Offsets>& shared) {
  Keys keys = shared.keys;
  Keys sorted = shared.other;
  block.run_team_phase(tile.lanes, [&](const auto& team) {
    choose_experts(team, tile, gates, writes_choices, weight, expert_of, keys);
  });
  block.run_phase([&](uint32_t thread, uint32_t threads) { sort_chunks(thread, threads, tile.pairs(), keys, sorted); });
  bool is_last = false;
  for (uint32_t width = kChunk; !is_last; width *= kMergedRuns) {
    const Keys merged = keys;
    keys = sorted;
    sorted = merged;
    is_last = width * kMergedRuns >= tile.pairs();
    block.run_phase([&](uint32_t thread, uint32_t threads) {
      merge_runs(thread, threads, tile.pairs(), width, keys, sorted);
      if (is_last) find_experts(thread, threads, tile, width, keys, shared.offsets);
    });
  }
  return sorted;
}

// The program of `route` if each group is one tile: block x routes group x.
template <class Block, class Gates, class Weights, class Experts, class Slots, class Sources, class Shared>
VMOE_HOST_DEVICE void route_group(const Block& block, const BlockPlace& place, const Groups& groups, const Gates& gates,
                                  const Weights& weight, const Experts& expert_of, const Slots& slot,
                                  const Sources& src, const Shared& shared) {
  const Tile tile = groups.tile_at(place.x, 0);
  const auto keys = sort_tile(block, tile, gates, true, weight, expert_of, shared);
  block.run_last_phase([&](uint32_t thread, uint32_t threads) {
    give_slots(thread, threads, tile, keys, shared.offsets, slot);
    give_sources(thread, threads, tile, keys, shared.offsets, src);
  });
}

// The program of the first launch of `route` if groups have several tiles. Block x sorts tile x of each of its groups,
// and writes tile_keys[G, tiles, tile_stride] and tile_offsets[G, tiles, E+1].
template <class Block, class Gates, class Weights, class Experts, class Sources, class TileKeys, class TileOffsets,
          class Shared>
VMOE_HOST_DEVICE void sort_tiles(const Block& block, const BlockPlace& place, const Groups& groups, const Gates& gates,
                                 const Weights& weight, const Experts& expert_of, const Sources& src,
                                 const TileKeys& tile_keys, const TileOffsets& tile_offsets, const Shared& shared) {
  for (uint32_t group = place.y; group < groups.count; group += place.grid_y) {
    const Tile tile = groups.tile_at(group, place.x);
    const size_t index = static_cast<size_t>(group) * groups.tiles + place.x;
    const auto keys = sort_tile(block, tile, gates, true, weight, expert_of, shared);
    block.run_phase([&](uint32_t thread, uint32_t threads) {
      publish_tile(thread, threads, tile, keys, shared.offsets, index * groups.tile_stride(), tile_keys,
                   index * (groups.experts + 1), tile_offsets);
      empty_slots(thread, threads, tile, place.x, place.grid_x, src);
    });
  }
}

// The program of the second launch of `route`. Each thread finds the position of one pair in each of the groups that
// its block processes.
template <class Block, class TileKeys, class TileOffsets, class Slots, class Sources>
VMOE_HOST_DEVICE void rank_pairs(const Block& block, const BlockPlace& place, const Groups& groups,
                                 const TileKeys& tile_keys, const TileOffsets& tile_offsets, const Slots& slot,
                                 const Sources& src) {
  block.run_last_phase([&](uint32_t thread, uint32_t threads) {
    // The keys of a group are contiguous in tile_keys, because all tiles of the group except the last are full.
    const uint32_t pair = place.x * threads + thread;
    if (pair >= groups.tokens * groups.choices) return;
    for (uint32_t group = place.y; group < groups.count; group += place.grid_y) {
      rank_pair(groups.tile_at(group, 0), groups.tiles, groups.tile_stride(), pair, tile_keys, tile_offsets, slot, src);
    }
  });
}

// The program of `route_dispatch` if each group is one tile. Several blocks share a group. Each block sorts the whole
// group, because this costs less than waiting for another launch. The block then copies its share of the rows. A warp
// copies one row at a time.
template <class Block, class Gates, class Weights, class Slots, class In, class Out, class Shared>
VMOE_HOST_DEVICE void route_and_dispatch(const Block& block, const BlockPlace& place, const Groups& groups,
                                         const Gates& gates, const Weights& weight, const Slots& slot, size_t words,
                                         const In& x, const Out& buf, const Shared& shared) {
  constexpr uint32_t kWarp = 32;
  const bool is_first = place.x == 0;
  for (uint32_t group = place.y; group < groups.count; group += place.grid_y) {
    const Tile tile = groups.tile_at(group, 0);
    const auto keys = sort_tile(block, tile, gates, is_first, weight, OptionalMemory<int32_t>{nullptr}, shared);
    block.run_phase([&](uint32_t thread, uint32_t threads) {
      if (is_first) give_slots(thread, threads, tile, keys, shared.offsets, slot);
      const uint32_t warps = threads / kWarp;
      for (size_t row = static_cast<size_t>(place.x) * warps + thread / kWarp; row < tile.group_slots();
           row += static_cast<size_t>(place.grid_x) * warps) {
        const auto expert = static_cast<uint32_t>(row / tile.capacity);
        const auto position = static_cast<uint32_t>(row % tile.capacity);
        copy_row(thread % kWarp, kWarp, words, source_of_slot(tile, keys, shared.offsets, expert, position),
                 tile.slot_index(expert, position), x, buf);
      }
    });
  }
}

}  // namespace vmoe::cuda
