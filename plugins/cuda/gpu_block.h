// A block of threads on a GPU, as programs of phases take it.
#pragma once

#include <cstdint>

#include "cuda/route_program.h"

namespace vmoe::cuda {

// The lane that this thread is of a team. Its warp is whole, and all of it does the same exchanges in turn.
class GpuTeam {
 public:
  // What this lane holds.
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
  __device__ void run_team_phase(uint32_t lanes, const Function& function) const {
    function(GpuTeam(lanes));
    __syncthreads();
  }
};

__device__ inline BlockPlace this_block() { return {blockIdx.x, blockIdx.y, gridDim.x, gridDim.y}; }

}  // namespace vmoe::cuda
