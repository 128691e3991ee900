#include "core/router.h"

#include "core/panel_tasks.h"
#include "core/workspace.h"

namespace vmoe {
namespace {

void compute_gates_of_rows(const PackedWeights& router, const float* x, size_t tokens, float* gates) {
  multiply_rows(router, x, tokens, gates);
  const size_t experts = router.columns();
  for (size_t token = 0; token < tokens; ++token) router.kernels().gate_softmax(gates + token * experts, experts);
}

}  // namespace

void compute_gates(const PackedWeights& router, const LayerNorm& norm, const float* x, size_t tokens, float* gates,
                   const TaskRunner& runner) {
  const size_t hidden = router.depth();
  parallel_for_rows(runner, tokens, [&](size_t begin, size_t end) {
    const float* rows = x + begin * hidden;
    float* out = gates + begin * router.columns();
    if (!norm) return compute_gates_of_rows(router, rows, end - begin, out);
    Workspace scratch;
    auto* normed = scratch.take<float>((end - begin) * hidden);
    for (size_t row = 0; row < end - begin; ++row) {
      router.kernels().normalize(rows + row * hidden, norm.scale, norm.bias, hidden, normed + row * hidden);
    }
    compute_gates_of_rows(router, normed, end - begin, out);
  });
}

}  // namespace vmoe
