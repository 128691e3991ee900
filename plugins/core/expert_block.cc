#include "core/expert_block.h"

#include <algorithm>

#include "core/workspace.h"

namespace vmoe {
namespace {

// Computes y = x + the sum of weight * out over each token's kept choices. `out`, f32[rows,D], has one row for each
// slot that contains a token. `row_of_slot`, i32[E,M], maps each such slot to its row of `out`.
void add_experts(const RoutedTokens& routing, const float* out, const int32_t* row_of_slot, size_t hidden,
                 const float* x, float* y, const TaskRunner& runner) {
  parallel_for_rows(runner, routing.tokens, [&](size_t begin, size_t end) {
    for (size_t token = begin; token < end; ++token) {
      const float* from = x + token * hidden;
      float* to = y + token * hidden;
      const int32_t* slot = routing.slot + token * routing.choices;
      const float* weight = routing.weight + token * routing.choices;
      // Adds the weighted output of the first kept choice to x, and each later weighted output to the sum so far.
      for (size_t k = 0; k < routing.choices; ++k) {
        if (slot[k] < 0) continue;
        const float* expert = out + static_cast<size_t>(row_of_slot[slot[k]]) * hidden;
        for (size_t d = 0; d < hidden; ++d) to[d] = from[d] + weight[k] * expert[d];
        from = to;
      }
      if (from != to) std::copy_n(from, hidden, to);
    }
  });
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
  const size_t experts = weights.experts();
  const size_t slots = experts * routing.slots;
  const auto kept =
      static_cast<size_t>(std::count_if(routing.src, routing.src + slots, [](int32_t token) { return token >= 0; }));
  Workspace workspace;
  auto* row_of_slot = workspace.take<int32_t>(slots);
  auto* token_of_row = workspace.take<int32_t>(kept);
  auto* first = workspace.take<size_t>(experts + 1);
  auto* out = workspace.take<float>(kept * weights.hidden());
  // Each expert gets one row for each of its slots that contains a token.
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
  add_experts(routing, out, row_of_slot, weights.hidden(), x, y, runner);
}

}  // namespace vmoe
