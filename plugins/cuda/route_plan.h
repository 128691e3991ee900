// Divides a routing into tiles and launches.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/routing_shape.h"
#include "cuda/route_program.h"

namespace vmoe::cuda {

// Maximum number of pairs that one block sorts. Two buffers of that many keys and the offsets of 256 experts fit into
// 48 KiB, the shared memory that every GPU gives a block.
inline constexpr uint32_t kTilePairs = 2048;

// Maximum number of threads of a block that sorts a tile, and blocks that a multiprocessor holds at once. Together they
// leave 64 registers per thread.
inline constexpr unsigned kTileThreads = 512;
inline constexpr unsigned kBlocksPerProcessor = 2;

// Number of threads of a block that ranks pairs across tiles.
inline constexpr unsigned kRankThreads = 256;

struct RoutePlan {
  Groups groups;     // parameters that a launch passes to its blocks
  unsigned threads;  // per block that sorts a tile

  bool single_tile() const { return groups.tiles == 1; }
};

RoutePlan plan_route(const RoutingShape& shape);

// Returns the bytes of a tile's shared memory: keys u64[2, stride], then offsets u32[E+1].
size_t tile_shared_bytes(const Groups& groups);

// The layout of the workspace of a routing with several tiles: keys u64[G, tiles, stride], offsets u32[G, tiles, E+1],
// and for route_dispatch src i32[E,M]. All fields are in bytes.
struct RouteWorkspace {
  size_t keys;  // the start of each part
  size_t offsets;
  size_t src;
  size_t bytes;  // the total size
};

RouteWorkspace plan_workspace(const RoutePlan& plan, bool with_src);

}  // namespace vmoe::cuda
