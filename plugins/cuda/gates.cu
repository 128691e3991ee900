#include "cuda/gate_phases.h"
#include "cuda/gpu_block.h"
#include "cuda/memory.h"
#include "cuda/ops.h"

namespace vmoe::cuda {
namespace {

// Number of rounds in the kernel for up to 32 experts. In this kernel, each lane stores only 4 logits.
constexpr uint32_t kFewGateRounds = 4;

// Each block runs one team, so that even a small batch is spread over the whole GPU.
template <uint32_t kRounds, class Word>
__global__ void __launch_bounds__(kGateLanes) gates_kernel(GateShape shape, const Word* __restrict__ x,
                                                           const Word* __restrict__ router, float* __restrict__ gates) {
  const size_t first_token = static_cast<size_t>(blockIdx.x) * kGateTokens;
  compute_gates<kRounds>(GpuTeam(kGateLanes), shape, first_token, Memory<const Word>{x}, Memory<const Word>{router},
                         Memory<float>{gates});
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
