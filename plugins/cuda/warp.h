// Warps: their size, and how their lanes exchange values.
#pragma once

#include <cstdint>

namespace vmoe::cuda {

inline constexpr uint32_t kWarp = 32;

#if defined(__CUDACC__)
// Returns the value of the lane whose number differs in the bits of `distance`. All lanes of the warp must call it
// together.
template <class T>
__device__ T exchange(T value, uint32_t distance) {
  return __shfl_xor_sync(0xffffffff, value, distance);
}
#endif

}  // namespace vmoe::cuda
