// Plans how a routing is divided into tiles and kernel launches.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/routing_shape.h"
#include "cuda/tile.h"

namespace vmoe::cuda {

// Maximum number of pairs that one block sorts. Every GPU gives a block 48 KiB of shared memory. Two buffers of 2048
// keys and the offsets of 256 experts fit into it.
inline constexpr uint32_t kTilePairs = 2048;

// Limits for blocks that sort a tile: the maximum number of threads per block, and the minimum number of blocks that a
// multiprocessor must be able to run at once. Together, these limits leave 64 registers per thread.
inline constexpr unsigned kTileThreads = 512;
inline constexpr unsigned kBlocksPerProcessor = 2;

// Number of threads in a block of rank_kernel, which finds the pairs' positions if groups have several tiles.
inline constexpr unsigned kRankThreads = 256;

struct RoutePlan {
  Groups groups;     // parameters that a launch passes to its blocks
  unsigned threads;  // number of threads in each block that sorts a tile

  bool single_tile() const { return groups.tiles == 1; }
};

RoutePlan plan_route(const RoutingShape& shape);

// Returns the size in bytes of the shared memory for one tile. This memory contains two buffers of keys,
// u64[2, tile_stride], and after them offsets u32[E+1].
size_t tile_shared_bytes(const Groups& groups);

// The layout of the workspace if groups have several tiles. The workspace contains keys u64[G, tiles, tile_stride] and
// offsets u32[G, tiles, E+1]. For route_dispatch, it also contains src i32[E,M], where M is the number of slots per
// expert in all groups. All fields of this struct count bytes.
struct RouteWorkspace {
  size_t keys;  // position of the keys in the workspace; `offsets` and `src` are positions too
  size_t offsets;
  size_t src;
  size_t bytes;  // the total size
};

RouteWorkspace plan_workspace(const RoutePlan& plan, bool with_src);

}  // namespace vmoe::cuda
