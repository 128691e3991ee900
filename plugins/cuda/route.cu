#include <algorithm>

#include "cuda/gpu_block.h"
#include "cuda/launch.h"
#include "cuda/memory.h"
#include "cuda/ops.h"
#include "cuda/route_plan.h"
#include "cuda/route_program.h"

namespace vmoe::cuda {
namespace {

extern __shared__ Key shared_keys[];  // layout: see tile_shared_bytes

__device__ TileMemory<Memory<Key>, Memory<uint32_t>> shared_tile(const Groups& groups) {
  const uint32_t stride = groups.tile_stride();
  return {{shared_keys}, {shared_keys + stride}, {reinterpret_cast<uint32_t*>(shared_keys + 2 * stride)}};
}

template <class GateWord>
__global__ void __launch_bounds__(kTileThreads, kBlocksPerProcessor)
    route_kernel(Groups groups, const GateWord* __restrict__ gates, int32_t* __restrict__ slot,
                 float* __restrict__ weight, int32_t* __restrict__ src, int32_t* __restrict__ expert) {
  route_group(GpuBlock{}, this_block(), groups, Memory<const GateWord>{gates}, Memory<float>{weight},
              OptionalMemory<int32_t>{expert}, Memory<int32_t>{slot}, Memory<int32_t>{src}, shared_tile(groups));
}

template <class GateWord>
__global__ void __launch_bounds__(kTileThreads, kBlocksPerProcessor)
    sort_tiles_kernel(Groups groups, const GateWord* __restrict__ gates, float* __restrict__ weight,
                      int32_t* __restrict__ src, int32_t* __restrict__ expert, Key* __restrict__ keys,
                      uint32_t* __restrict__ offsets) {
  sort_tiles(GpuBlock{}, this_block(), groups, Memory<const GateWord>{gates}, Memory<float>{weight},
             OptionalMemory<int32_t>{expert}, Memory<int32_t>{src}, Memory<Key>{keys}, Memory<uint32_t>{offsets},
             shared_tile(groups));
}

__global__ void __launch_bounds__(kRankThreads)
    rank_kernel(Groups groups, const Key* __restrict__ keys, const uint32_t* __restrict__ offsets,
                int32_t* __restrict__ slot, int32_t* __restrict__ src) {
  rank_pairs(GpuBlock{}, this_block(), groups, Memory<const Key>{keys}, Memory<const uint32_t>{offsets},
             Memory<int32_t>{slot}, Memory<int32_t>{src});
}

template <class GateWord, class Word>
__global__ void __launch_bounds__(kTileThreads, kBlocksPerProcessor)
    route_dispatch_kernel(Groups groups, const GateWord* __restrict__ gates, const Word* __restrict__ x, size_t words,
                          int32_t* __restrict__ slot, float* __restrict__ weight, Word* __restrict__ buf) {
  route_and_dispatch(GpuBlock{}, this_block(), groups, Memory<const GateWord>{gates}, Memory<float>{weight},
                     Memory<int32_t>{slot}, words, Memory<const Word>{x}, Memory<Word>{buf}, shared_tile(groups));
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
  const size_t warps = plan.threads / 32;
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
