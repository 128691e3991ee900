// Computes gates on the CPU with the program that the GPU runs, one lane after another. The results have the same bits
// as on the GPU.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/task_runner.h"
#include "cuda/gate_program.h"

namespace vmoe::cuda {

class HostWarp {
 public:
  template <class T>
  class Lanes {
   public:
    explicit Lanes(const HostWarp&) {}
    T& operator[](uint32_t lane) { return held_[lane]; }

   private:
    std::array<T, kGateLanes> held_ = {};
  };

  template <class Function>
  void for_each_lane(const Function& function) const {
    for (uint32_t lane = 0; lane < kGateLanes; ++lane) function(lane);
  }

  template <class T>
  void exchange(Lanes<T>& of, uint32_t distance, Lanes<T>& other) const {
    for (uint32_t lane = 0; lane < kGateLanes; ++lane) other[lane] = of[lane ^ distance];
  }
};

// Computes float32 gates[tokens,E] from float32 x[tokens,D] and float32 router[D,E].
inline void compute_gates_on_host(const GateShape& shape, const float* x, const float* router, float* gates,
                                  const TaskRunner& runner) {
  const size_t warps = (size_t{shape.tokens} + kGateTokens - 1) / kGateTokens;
  parallel_for(runner, warps, [&](size_t warp) {
    compute_gates<kMostGateRounds>(HostWarp(), shape, warp * kGateTokens, x, router, gates);
  });
}

}  // namespace vmoe::cuda
