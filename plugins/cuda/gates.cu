#include "cuda/gate_program.h"
#include "cuda/ops.h"
#include "cuda/warp.h"

namespace vmoe::cuda {
namespace {

// Number of rounds in the kernel for up to 32 experts. In this kernel, each lane stores only 4 logits.
constexpr uint32_t kFewGateRounds = 4;

// A warp of the program. Each thread runs one lane, and stores only that lane's values.
struct GpuWarp {
  template <class T>
  class Lanes {
   public:
    __device__ explicit Lanes(const GpuWarp&) {}
    __device__ T& operator[](uint32_t) { return own_; }

   private:
    T own_;
  };

  template <class Function>
  __device__ void for_each_lane(const Function& function) const {
    function(threadIdx.x);
  }

  __device__ void exchange(Lanes<float>& of, uint32_t distance, Lanes<float>& other) const {
    other[0] = cuda::exchange(of[0], distance);
  }
};

// Each block runs one warp, so that even a small batch is spread over the whole GPU.
template <uint32_t kRounds, class Word>
__global__ void __launch_bounds__(kGateLanes) gates_kernel(GateShape shape, const Word* __restrict__ x,
                                                           const Word* __restrict__ router, float* __restrict__ gates) {
  compute_gates<kRounds>(GpuWarp{}, shape, static_cast<size_t>(blockIdx.x) * kGateTokens, x, router, gates);
}

template <class Word>
cudaError_t launch_gates(size_t tokens, size_t hidden, size_t experts, const float* x, const float* router,
                         float* gates, cudaStream_t stream) {
  const GateShape shape{static_cast<uint32_t>(tokens), static_cast<uint32_t>(hidden), static_cast<uint32_t>(experts)};
  const auto blocks = static_cast<unsigned>((tokens + kGateTokens - 1) / kGateTokens);
  const auto* const x_words = reinterpret_cast<const Word*>(x);
  const auto* const router_words = reinterpret_cast<const Word*>(router);
  if (experts <= kFewGateRounds * kGateExperts) {
    gates_kernel<kFewGateRounds><<<blocks, kGateLanes, 0, stream>>>(shape, x_words, router_words, gates);
  } else {
    gates_kernel<kMostGateRounds><<<blocks, kGateLanes, 0, stream>>>(shape, x_words, router_words, gates);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t compute_gates(const float* x, const float* router, size_t tokens, size_t hidden, size_t experts,
                          float* gates, cudaStream_t stream) {
  if (gates_refusal(tokens, hidden, experts) != nullptr) return cudaErrorInvalidValue;
  if (tokens == 0) return cudaSuccess;
  if (are_words(x, hidden * sizeof(float)) && are_words(router, experts * sizeof(float))) {
    return launch_gates<Word16>(tokens, hidden, experts, x, router, gates, stream);
  }
  return launch_gates<float>(tokens, hidden, experts, x, router, gates, stream);
}

}  // namespace vmoe::cuda
