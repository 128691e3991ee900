// A C interface to the gates that the CUDA op library computes on the CPU. The Python tests call it.
#include "cuda/gates_on_host.h"

extern "C" {

// Computes float32 gates[tokens,E] from float32 x[tokens,D] and float32 router[D,E].
void gates_on_host(const float* x, const float* router, uint32_t tokens, uint32_t hidden, uint32_t experts,
                   float* gates) {
  vmoe::cuda::compute_gates_on_host({tokens, hidden, experts}, x, router, gates, vmoe::serial_runner());
}

// Computes y = exp(x) for `count` numbers, each of which is zero or negative.
void exp_of_negatives(const float* x, int64_t count, float* y) {
  for (int64_t i = 0; i < count; ++i) y[i] = vmoe::cuda::exp_of_negative(x[i]);
}
}
