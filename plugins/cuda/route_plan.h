// Plans how a routing is divided into tiles and kernel launches.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/routing_shape.h"
#include "cuda/route_program.h"

namespace vmoe::cuda {

// Maximum number of pairs that one block sorts. Two buffers of 2048 keys and the offsets of 256 experts fit into 48
// KiB, the shared memory that every GPU gives a block.
inline constexpr uint32_t kTilePairs = 2048;

// Maximum number of threads in a block that sorts a tile, and the number of such blocks that a multiprocessor must be
// able to run at once. Together, these limits leave 64 registers per thread.
inline constexpr unsigned kTileThreads = 512;
inline constexpr unsigned kBlocksPerProcessor = 2;

// Number of threads of a block that ranks pairs across tiles.
inline constexpr unsigned kRankThreads = 256;

struct RoutePlan {
  Groups groups;     // parameters that a launch passes to its blocks
  unsigned threads;  // number of threads in each block that sorts a tile

  bool single_tile() const { return groups.tiles == 1; }
};

RoutePlan plan_route(const RoutingShape& shape);

// Returns the size in bytes of the shared memory for one tile: first keys u64[2, stride], then offsets u32[E+1].
size_t tile_shared_bytes(const Groups& groups);

// The layout of the workspace if groups have several tiles: keys u64[G, tiles, stride], offsets u32[G, tiles, E+1] and,
// for route_dispatch only, src i32[E,M]. All fields of this struct are numbers of bytes.
struct RouteWorkspace {
  size_t keys;  // where the keys start in the workspace; the same for `offsets` and `src`
  size_t offsets;
  size_t src;
  size_t bytes;  // the total size
};

RouteWorkspace plan_workspace(const RoutePlan& plan, bool with_src);

}  // namespace vmoe::cuda
