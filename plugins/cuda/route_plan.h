// How a routing is cut into tiles and launches.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/routing_shape.h"
#include "cuda/route_program.h"

namespace vmoe::cuda {

// Pairs that one block sorts: two buffers of keys and the offsets of 256 experts fit 48 KiB, what every GPU gives a
// block.
inline constexpr uint32_t kTilePairs = 2048;

// Threads of a block that sorts a tile, at most, and blocks that a multiprocessor holds at once: 64 registers a thread.
inline constexpr unsigned kTileThreads = 512;
inline constexpr unsigned kBlocksPerProcessor = 2;

// Threads of a block that ranks pairs across tiles.
inline constexpr unsigned kRankThreads = 256;

struct RoutePlan {
  Groups groups;     // what a launch tells its blocks
  unsigned threads;  // of a block that sorts a tile

  bool single_tile() const { return groups.tiles == 1; }
};

RoutePlan plan_route(const RoutingShape& shape);

// Bytes of a tile's shared memory: keys u64[2, stride], then offsets u32[E+1].
size_t tile_shared_bytes(const Groups& groups);

// The workspace of a routing with several tiles: keys u64[G, tiles, stride], offsets u32[G, tiles, E+1], and for
// route_dispatch src i32[E,M].
struct RouteWorkspace {
  size_t keys;  // where each begins, in bytes
  size_t offsets;
  size_t src;
  size_t bytes;
};

RouteWorkspace plan_workspace(const RoutePlan& plan, bool with_src);

}  // namespace vmoe::cuda
