#include "core/router_block.h"

#include <atomic>
#include <new>

#include "core/gates.h"
#include "core/workspace.h"

namespace vmoe {

void compute_router_block(const PackedWeights& router, const LayerNorm& norm, const RoutingShape& shape, const float* x,
                          int32_t* slot, float* weight, const MakeSources& make_src, int32_t* expert,
                          const TaskRunner& runner) {
  const size_t tokens = shape.groups * shape.tokens;
  const size_t hidden = router.depth();
  float* gates = nullptr;
  Workspace workspace;
  take_all(workspace, [&](auto& memory) { gates = memory.template take<float>(tokens * shape.experts); });
  std::atomic<bool> out_of_memory{false};
  parallel_for_rows(runner, tokens, [&](size_t begin, size_t end) {
    try {
      float* normed = nullptr;
      Workspace scratch;
      take_all(scratch, [&](auto& memory) { normed = memory.template take<float>((end - begin) * hidden); });
      compute_gates(router, norm, x + begin * hidden, end - begin, normed, gates + begin * shape.experts);
    } catch (const std::bad_alloc&) {
      out_of_memory = true;
    }
  });
  if (out_of_memory) throw std::bad_alloc();
  route(shape, ElementType::kFloat32, gates, slot, weight, make_src, expert, runner);
}

}  // namespace vmoe
