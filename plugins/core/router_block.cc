#include "core/router_block.h"

#include <atomic>
#include <new>

#include "core/gates.h"
#include "core/workspace.h"

namespace vmoe {

void RouterBlock(const PackedWeights& router, const LayerNorm& norm, const RoutingShape& shape, const float* x,
                 int32_t* slot, float* weight, const MakeSources& make_src, int32_t* expert, const TaskRunner& runner) {
  const size_t tokens = shape.groups * shape.tokens;
  const size_t hidden = router.depth();
  float* gates = nullptr;
  Workspace workspace;
  TakeAll(workspace, [&](auto& memory) { gates = memory.template Take<float>(tokens * shape.experts); });
  std::atomic<bool> out_of_memory{false};
  ParallelForRows(runner, tokens, [&](size_t begin, size_t end) {
    try {
      float* normed = nullptr;
      Workspace scratch;
      TakeAll(scratch, [&](auto& memory) { normed = memory.template Take<float>((end - begin) * hidden); });
      ComputeGates(router, norm, x + begin * hidden, end - begin, normed, gates + begin * shape.experts);
    } catch (const std::bad_alloc&) {
      out_of_memory = true;
    }
  });
  if (out_of_memory) throw std::bad_alloc();
  Route(shape, ElementType::kFloat32, gates, slot, weight, make_src, expert, runner);
}

}  // namespace vmoe
