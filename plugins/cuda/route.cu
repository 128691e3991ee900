// If each group is one tile, one launch routes it: the slots of its pairs follow from their sorted order. Otherwise, a
// first launch sorts each tile, and a second one searches all tiles of a group to find the position of each pair.
#include <algorithm>

#include "cuda/copy_row.h"
#include "cuda/launch.h"
#include "cuda/ops.h"
#include "cuda/route_plan.h"
#include "cuda/sort_tile.h"

namespace vmoe::cuda {
namespace {

extern __shared__ Key shared_keys[];  // layout: see tile_shared_bytes

__device__ TileMemory shared_tile(const Groups& groups) {
  const uint32_t stride = groups.tile_stride();
  return {shared_keys, shared_keys + stride, reinterpret_cast<uint32_t*>(shared_keys + 2 * stride)};
}

// Returns the slot of the pair at `position` among the pairs of `expert`, or -1 if the expert has no slot for that
// position.
__device__ int32_t slot_at(const Groups& groups, uint32_t group, uint32_t expert, uint32_t position) {
  if (position >= groups.capacity) return -1;
  return static_cast<int32_t>(groups.slot_index(group, expert, position));
}

// Writes the slot of every pair of a group that is one tile.
__device__ void give_slots(const Groups& groups, uint32_t group, const SortedTile& sorted, int32_t* slot) {
  for (uint32_t i = threadIdx.x; i < groups.tokens * groups.choices; i += blockDim.x) {
    const Key key = sorted.keys[i];
    const uint32_t expert = key_expert(key);
    slot[groups.pair_index(group, key_token(key), key_choice(key))] =
        slot_at(groups, group, expert, i - sorted.offsets[expert]);
  }
}

// Returns the token in the slot that `expert` has at `position`, as an index among the tokens of all groups. If that
// slot is empty, returns -1. The group must be one tile.
__device__ int32_t source_of_slot(const Groups& groups, uint32_t group, const SortedTile& sorted, uint32_t expert,
                                  uint32_t position) {
  const uint32_t begin = sorted.offsets[expert];
  if (position >= sorted.offsets[expert + 1] - begin) return -1;
  return static_cast<int32_t>(group * groups.tokens + key_token(sorted.keys[begin + position]));
}

// The kernel of `route` if each group is one tile: block x routes group x.
template <class GateWord>
__global__ void __launch_bounds__(kTileThreads, kBlocksPerProcessor)
    route_kernel(Groups groups, const GateWord* __restrict__ gates, int32_t* __restrict__ slot,
                 float* __restrict__ weight, int32_t* __restrict__ src, int32_t* __restrict__ expert_of) {
  const uint32_t group = blockIdx.x;
  const SortedTile sorted = sort_tile(groups, groups.tile_at(group, 0), gates, weight, expert_of, shared_tile(groups));
  give_slots(groups, group, sorted, slot);
  for (uint32_t index = threadIdx.x; index < groups.experts * groups.capacity; index += blockDim.x) {
    const uint32_t expert = index / groups.capacity;
    const uint32_t position = index % groups.capacity;
    src[groups.slot_index(group, expert, position)] = source_of_slot(groups, group, sorted, expert, position);
  }
}

// The first kernel of `route` if groups have several tiles. Block x sorts tile x of each of its groups. Writes
// tile_keys[G, tiles, tile_stride] and tile_offsets[G, tiles, E+1], and marks all slots as empty.
template <class GateWord>
__global__ void __launch_bounds__(kTileThreads, kBlocksPerProcessor)
    sort_tiles_kernel(Groups groups, const GateWord* __restrict__ gates, float* __restrict__ weight,
                      int32_t* __restrict__ src, int32_t* __restrict__ expert_of, Key* __restrict__ tile_keys,
                      uint32_t* __restrict__ tile_offsets) {
  for (uint32_t group = blockIdx.y; group < groups.count; group += gridDim.y) {
    const Tile tile = groups.tile_at(group, blockIdx.x);
    const SortedTile sorted = sort_tile(groups, tile, gates, weight, expert_of, shared_tile(groups));
    const size_t index = static_cast<size_t>(group) * groups.tiles + blockIdx.x;
    Key* const keys = tile_keys + index * groups.tile_stride();
    uint32_t* const offsets = tile_offsets + index * (groups.experts + 1);
    for (uint32_t i = threadIdx.x; i < tile.tokens * groups.choices; i += blockDim.x) keys[i] = sorted.keys[i];
    for (uint32_t e = threadIdx.x; e <= groups.experts; e += blockDim.x) offsets[e] = sorted.offsets[e];
    const uint32_t slots = groups.experts * groups.capacity;
    for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < slots;
         i += static_cast<size_t>(gridDim.x) * blockDim.x) {
      const auto expert = static_cast<uint32_t>(i / groups.capacity);
      src[groups.slot_index(group, expert, static_cast<uint32_t>(i % groups.capacity))] = -1;
    }
    __syncthreads();  // the next group's keys go to the same shared memory
  }
}

// Returns the number of keys in the sorted range keys[begin, end) that are smaller than `key`.
__device__ uint32_t count_smaller(const Key* keys, uint32_t begin, uint32_t end, Key key) {
  uint32_t low = begin;
  while (low < end) {
    const uint32_t middle = low + (end - low) / 2;
    if (keys[middle] < key) {
      low = middle + 1;
    } else {
      end = middle;
    }
  }
  return low - begin;
}

// The second kernel of `route` if groups have several tiles. Each thread finds the position of one pair in each of the
// groups that its block processes: the number of smaller keys of the pair's expert in all tiles of the group. Reads the
// results of sort_tiles_kernel.
__global__ void __launch_bounds__(kRankThreads)
    rank_kernel(Groups groups, const Key* __restrict__ tile_keys, const uint32_t* __restrict__ tile_offsets,
                int32_t* __restrict__ slot, int32_t* __restrict__ src) {
  // The keys of a group are contiguous, because all tiles of the group except the last are full.
  const uint32_t pair = blockIdx.x * blockDim.x + threadIdx.x;
  if (pair >= groups.tokens * groups.choices) return;
  for (uint32_t group = blockIdx.y; group < groups.count; group += gridDim.y) {
    const size_t first_tile = static_cast<size_t>(group) * groups.tiles;
    const Key* keys = tile_keys + first_tile * groups.tile_stride();
    const Key key = keys[pair];
    const uint32_t expert = key_expert(key);
    const uint32_t* offsets = tile_offsets + first_tile * (groups.experts + 1) + expert;
    uint32_t position = 0;
    for (uint32_t tile = 0; tile < groups.tiles && position < groups.capacity; ++tile) {
      position += count_smaller(keys, offsets[0], offsets[1], key);
      keys += groups.tile_stride();
      offsets += groups.experts + 1;
    }
    const int32_t index = slot_at(groups, group, expert, position);
    slot[groups.pair_index(group, key_token(key), key_choice(key))] = index;
    if (index >= 0) src[index] = static_cast<int32_t>(group * groups.tokens + key_token(key));
  }
}

// The kernel of `route_dispatch` if each group is one tile. Several blocks share a group. Each block sorts the whole
// group, because this costs less than waiting for another launch. The block then copies its share of the rows. A warp
// copies one row at a time.
template <class GateWord, class Word>
__global__ void __launch_bounds__(kTileThreads, kBlocksPerProcessor)
    route_dispatch_kernel(Groups groups, const GateWord* __restrict__ gates, const Word* __restrict__ x, size_t words,
                          int32_t* __restrict__ slot, float* __restrict__ weight, Word* __restrict__ buf) {
  const bool is_first = blockIdx.x == 0;
  const uint32_t warps = blockDim.x / kWarp;
  const uint32_t rows = groups.experts * groups.capacity;
  for (uint32_t group = blockIdx.y; group < groups.count; group += gridDim.y) {
    const SortedTile sorted =
        sort_tile(groups, groups.tile_at(group, 0), gates, is_first ? weight : nullptr, nullptr, shared_tile(groups));
    if (is_first) give_slots(groups, group, sorted, slot);
    for (size_t row = static_cast<size_t>(blockIdx.x) * warps + threadIdx.x / kWarp; row < rows;
         row += static_cast<size_t>(gridDim.x) * warps) {
      const auto expert = static_cast<uint32_t>(row / groups.capacity);
      const auto position = static_cast<uint32_t>(row % groups.capacity);
      const int32_t token = source_of_slot(groups, group, sorted, expert, position);
      copy_row(threadIdx.x % kWarp, kWarp, words, token < 0 ? nullptr : x + static_cast<size_t>(token) * words,
               buf + groups.slot_index(group, expert, position) * words);
    }
    __syncthreads();  // the next group's keys go to the same shared memory
  }
}

// Calls `launch` with a pointer to the gates, and returns the result of `launch`. If the gates of each token fill
// whole, aligned words, the pointer has the type const Word16*. Otherwise, it has the type const float*.
template <class Launch>
cudaError_t with_gate_words(size_t experts, const float* gates, const Launch& launch) {
  if (are_words(gates, experts * sizeof(float))) return launch(reinterpret_cast<const Word16*>(gates));
  return launch(gates);
}

template <class GateWord>
cudaError_t launch_route(const RoutingShape& shape, const GateWord* gates, int32_t* slot, float* weight, int32_t* src,
                         int32_t* expert, void* workspace, cudaStream_t stream) {
  const RoutePlan plan = plan_route(shape);
  const Groups& groups = plan.groups;
  const unsigned threads = plan.threads;
  const size_t shared = tile_shared_bytes(groups);
  if (plan.single_tile()) {
    route_kernel<<<groups.count, threads, shared, stream>>>(groups, gates, slot, weight, src, expert);
    return cudaGetLastError();
  }
  const RouteWorkspace layout = plan_workspace(plan, false);
  auto* const bytes = static_cast<unsigned char*>(workspace);
  auto* const keys = reinterpret_cast<Key*>(bytes + layout.keys);
  auto* const offsets = reinterpret_cast<uint32_t*>(bytes + layout.offsets);
  const auto rows = static_cast<unsigned>(std::min<size_t>(groups.count, kMaxGridY));
  sort_tiles_kernel<<<dim3(groups.tiles, rows), threads, shared, stream>>>(groups, gates, weight, src, expert, keys,
                                                                           offsets);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  const size_t parts = (shape.tokens * shape.choices + kRankThreads - 1) / kRankThreads;
  rank_kernel<<<dim3(static_cast<unsigned>(parts), rows), kRankThreads, 0, stream>>>(groups, keys, offsets, slot, src);
  return cudaGetLastError();
}

// Sets `parts` to the number of blocks that share a group. The number is large enough to fill the GPU, but small enough
// that every warp has a row to copy.
cudaError_t parts_of_group(const RoutingShape& shape, const RoutePlan& plan, unsigned* parts) {
  int device = 0;
  int processors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  const size_t warps = plan.threads / kWarp;
  const size_t useful = (shape.experts * shape.capacity + warps - 1) / warps;
  const size_t wanted = size_t{kBlocksPerProcessor} * static_cast<size_t>(processors) / shape.groups;
  *parts = static_cast<unsigned>(std::max<size_t>(1, std::min(useful, wanted)));
  return cudaSuccess;
}

template <class Word, class GateWord>
cudaError_t launch_route_dispatch(const RoutingShape& shape, const GateWord* gates, const void* x, size_t row_bytes,
                                  int32_t* slot, float* weight, void* buf, cudaStream_t stream) {
  const RoutePlan plan = plan_route(shape);
  unsigned parts = 0;
  if (const cudaError_t error = parts_of_group(shape, plan, &parts); error != cudaSuccess) return error;
  const auto rows = static_cast<unsigned>(std::min<size_t>(shape.groups, kMaxGridY));
  route_dispatch_kernel<<<dim3(parts, rows), plan.threads, tile_shared_bytes(plan.groups), stream>>>(
      plan.groups, gates, static_cast<const Word*>(x), row_bytes / sizeof(Word), slot, weight, static_cast<Word*>(buf));
  return cudaGetLastError();
}

}  // namespace

cudaError_t route(const RoutingShape& shape, const float* gates, int32_t* slot, float* weight, int32_t* src,
                  int32_t* expert, void* workspace, cudaStream_t stream) {
  if (routing_refusal(shape) != nullptr) return cudaErrorInvalidValue;
  if (shape.groups == 0) return cudaSuccess;
  return with_gate_words(shape.experts, gates, [&](const auto* words) {
    return launch_route(shape, words, slot, weight, src, expert, workspace, stream);
  });
}

cudaError_t route_dispatch(const RoutingShape& shape, const float* gates, const void* x, size_t row_bytes,
                           int32_t* slot, float* weight, void* buf, void* workspace, cudaStream_t stream) {
  if (routing_refusal(shape) != nullptr || row_bytes % 2 != 0) return cudaErrorInvalidValue;
  if (shape.groups == 0) return cudaSuccess;
  const RoutePlan plan = plan_route(shape);
  if (plan.single_tile()) {
    const bool wide = are_words(x, row_bytes) && are_words(buf, row_bytes);
    return with_gate_words(shape.experts, gates, [&](const auto* words) {
      return wide ? launch_route_dispatch<Word16>(shape, words, x, row_bytes, slot, weight, buf, stream)
                  : launch_route_dispatch<uint16_t>(shape, words, x, row_bytes, slot, weight, buf, stream);
    });
  }
  const RouteWorkspace layout = plan_workspace(plan, true);
  auto* const src = reinterpret_cast<int32_t*>(static_cast<unsigned char*>(workspace) + layout.src);
  const cudaError_t error = route(shape, gates, slot, weight, src, nullptr, workspace, stream);
  if (error != cudaSuccess) return error;
  return dispatch(x, shape.groups * shape.tokens, src, shape.experts * shape.slots(), row_bytes, buf, stream);
}

}  // namespace vmoe::cuda
