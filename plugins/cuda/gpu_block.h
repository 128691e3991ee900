// The GPU implementations of Block and Team. The interface of Block is described in route_program.h. The interface of
// Team is described at choose_experts in route_phases.h.
#pragma once

#include <cstdint>

#include "cuda/route_program.h"

namespace vmoe::cuda {

// A team of lanes. Each thread runs one lane and has its own GpuTeam, whose functions act only on that lane. All
// threads of the warp must be active and must call the same exchanges in the same order.
class GpuTeam {
 public:
  // Stores only one value: the value for the lane that the calling thread runs.
  template <class T>
  class Lanes {
   public:
    __device__ explicit Lanes(const GpuTeam&) {}
    __device__ T& operator[](uint32_t) { return own_; }

   private:
    T own_;
  };

  __device__ explicit GpuTeam(uint32_t lanes) : lanes_(lanes) {}
  __device__ uint32_t index() const { return threadIdx.x / lanes_; }
  __device__ uint32_t count() const { return blockDim.x / lanes_; }

  template <class Function>
  __device__ void for_each_lane(const Function& function) const {
    function(threadIdx.x % lanes_);
  }

  __device__ void exchange(Lanes<uint64_t>& of, uint32_t distance, Lanes<uint64_t>& other) const {
    const uint32_t lane = threadIdx.x % lanes_;
    other[lane] = __shfl_xor_sync(kWholeWarp, static_cast<unsigned long long>(of[lane]), distance);
  }

  __device__ void exchange(Lanes<float>& of, uint32_t distance, Lanes<float>& other) const {
    const uint32_t lane = threadIdx.x % lanes_;
    other[lane] = __shfl_xor_sync(kWholeWarp, of[lane], distance);
  }

 private:
  static constexpr unsigned kWholeWarp = 0xffffffff;

  uint32_t lanes_;
};

struct GpuBlock {
  template <class Function>
  __device__ void run_phase(const Function& function) const {
    function(threadIdx.x, blockDim.x);
    __syncthreads();
  }

  template <class Function>
  __device__ void run_last_phase(const Function& function) const {
    function(threadIdx.x, blockDim.x);
  }

  template <class Function>
  __device__ void run_team_phase(uint32_t lanes, const Function& function) const {
    function(GpuTeam(lanes));
    __syncthreads();
  }
};

__device__ inline BlockPlace this_block() { return {blockIdx.x, blockIdx.y, gridDim.x, gridDim.y}; }

}  // namespace vmoe::cuda
