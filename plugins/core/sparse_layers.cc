#include "core/sparse_layers.h"

#include <algorithm>

#include "core/dispatch.h"
#include "core/router.h"
#include "core/routing.h"
#include "core/workspace.h"

namespace vmoe {
namespace {

// Runs the experts on the tokens that they have, and calls use(out, row_of_slot): out f32[rows,D] has a row for each
// slot with a token, row_of_slot i32[E,M] says which.
template <class Use>
void run_experts(const MlpWeights& weights, const LayerNorm& norm, const RoutedTokens& routing, bool dispatch_bf16,
                 const float* x, const TaskRunner& runner, const Use& use) {
  const size_t experts = weights.experts();
  const size_t slots = experts * routing.slots;
  const auto kept =
      static_cast<size_t>(std::count_if(routing.src, routing.src + slots, [](int32_t token) { return token >= 0; }));
  int32_t *row_of_slot = nullptr, *token_of_row = nullptr;
  size_t* first = nullptr;
  float* out = nullptr;
  Workspace workspace;
  take_all(workspace, [&](auto& memory) {
    row_of_slot = memory.template take<int32_t>(slots);
    token_of_row = memory.template take<int32_t>(kept);
    first = memory.template take<size_t>(experts + 1);
    out = memory.template take<float>(kept * weights.hidden());
  });
  // The rows of an expert are its slots that have a token.
  std::fill(first, first + experts + 1, size_t{0});
  size_t row = 0;
  for (size_t slot = 0; slot < slots; ++slot) {
    if (slot % routing.slots == 0) first[slot / routing.slots] = row;
    if (routing.src[slot] < 0) continue;
    token_of_row[row] = routing.src[slot];
    row_of_slot[slot] = static_cast<int32_t>(row++);
  }
  first[experts] = row;
  compute_expert_mlp(weights, {x, token_of_row, first, norm, dispatch_bf16}, out, runner);
  use(out, row_of_slot);
}

}  // namespace

const int32_t* slot_without_token(const RoutedTokens& routing) {
  const int32_t* end = routing.slot + routing.tokens * routing.choices;
  const int32_t* found =
      std::find_if(routing.slot, end, [&](int32_t slot) { return slot >= 0 && routing.src[slot] < 0; });
  return found == end ? nullptr : found;
}

void compute_expert_block(const MlpWeights& weights, const LayerNorm& norm, const RoutedTokens& routing,
                          bool dispatch_bf16, const float* x, float* y, const TaskRunner& runner) {
  const size_t hidden = weights.hidden();
  run_experts(weights, norm, routing, dispatch_bf16, x, runner, [&](const float* out, const int32_t* row_of_slot) {
    parallel_for_rows(runner, routing.tokens, [&](size_t begin, size_t end) {
      for (size_t token = begin; token < end; ++token) {
        const float* from = x + token * hidden;
        float* to = y + token * hidden;
        const int32_t* slot = routing.slot + token * routing.choices;
        const float* weight = routing.weight + token * routing.choices;
        // The first kept pair adds to x, each other one to those before.
        for (size_t k = 0; k < routing.choices; ++k) {
          if (slot[k] < 0) continue;
          const float* expert = out + static_cast<size_t>(row_of_slot[slot[k]]) * hidden;
          for (size_t d = 0; d < hidden; ++d) to[d] = from[d] + weight[k] * expert[d];
          from = to;
        }
        if (from != to) std::copy_n(from, hidden, to);
      }
    });
  });
}

void compute_sparse_mlp(const PackedWeights& router, const MlpWeights& experts, const RoutingShape& shape,
                        bool dispatch_bf16, const float* x, float* y, int32_t* slot, float* weight,
                        const TaskRunner& runner) {
  const size_t tokens = shape.groups * shape.tokens;
  const size_t pairs = tokens * shape.choices;
  // No expert keeps more pairs of a group than it has tokens: that many slots are enough.
  RoutingShape fitted = shape;
  fitted.capacity = std::min(shape.capacity, std::max<size_t>(shape.tokens, 1));
  float *gates = nullptr, *own_weight = nullptr;
  int32_t *src = nullptr, *own_slot = nullptr, *row_of_pair = nullptr;
  Workspace workspace;
  take_all(workspace, [&](auto& memory) {
    gates = memory.template take<float>(tokens * shape.experts);
    own_weight = memory.template take<float>(weight == nullptr ? pairs : 0);
    own_slot = memory.template take<int32_t>(slot == nullptr ? pairs : 0);
    row_of_pair = memory.template take<int32_t>(pairs);
    src = memory.template take<int32_t>(shape.experts * fitted.slots());
  });
  if (slot == nullptr) slot = own_slot;
  if (weight == nullptr) weight = own_weight;
  compute_gates(router, {}, x, tokens, gates, runner);
  route(fitted, ElementType::kFloat32, gates, slot, weight, src, runner);

  const RoutedTokens routing{tokens, shape.choices, fitted.slots(), slot, weight, src};
  run_experts(experts, {}, routing, dispatch_bf16, x, runner, [&](const float* out, const int32_t* row_of_slot) {
    std::transform(slot, slot + pairs, row_of_pair, [&](int32_t s) { return s < 0 ? -1 : row_of_slot[s]; });
    combine(ElementType::kFloat32, out, row_of_pair, ElementType::kFloat32, weight, tokens, shape.choices,
            experts.hidden(), y, runner);
  });
  // From the slots of `fitted` to those of `shape`.
  for (size_t pair = 0; pair < pairs && fitted.capacity < shape.capacity; ++pair) {
    if (slot[pair] < 0) continue;
    const auto mine = static_cast<size_t>(slot[pair]);
    const size_t group = mine / fitted.capacity;  // of all experts
    slot[pair] = static_cast<int32_t>(group * shape.capacity + mine % fitted.capacity);
  }
}

}  // namespace vmoe
