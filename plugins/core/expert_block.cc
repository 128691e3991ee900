#include "core/expert_block.h"

#include <algorithm>

#include "core/workspace.h"

namespace vmoe {

const int32_t* slot_without_token(const ExpertBlockRouting& routing) {
  const int32_t* end = routing.slot + routing.tokens * routing.choices;
  const int32_t* found =
      std::find_if(routing.slot, end, [&](int32_t slot) { return slot >= 0 && routing.src[slot] < 0; });
  return found == end ? nullptr : found;
}

void compute_expert_block(const ExpertWeights& weights, const LayerNorm& norm, const ExpertBlockRouting& routing,
                          bool dispatch_bf16, const float* x, float* y, const TaskRunner& runner) {
  const size_t hidden = weights.hidden();
  const size_t places = weights.experts() * routing.places;
  const auto kept =
      static_cast<size_t>(std::count_if(routing.src, routing.src + places, [](int32_t token) { return token >= 0; }));
  int32_t *row_of_place = nullptr, *token_of_row = nullptr;
  size_t* first = nullptr;
  float* out = nullptr;
  Workspace workspace;
  take_all(workspace, [&](auto& memory) {
    row_of_place = memory.template take<int32_t>(places);
    token_of_row = memory.template take<int32_t>(kept);
    first = memory.template take<size_t>(weights.experts() + 1);
    out = memory.template take<float>(kept * hidden);
  });
  // The rows of an expert are its places that have a token.
  size_t row = 0;
  for (size_t place = 0; place < places; ++place) {
    if (place % routing.places == 0) first[place / routing.places] = row;
    if (routing.src[place] < 0) continue;
    token_of_row[row] = routing.src[place];
    row_of_place[place] = static_cast<int32_t>(row++);
  }
  if (routing.places == 0) std::fill(first, first + weights.experts(), size_t{0});
  first[weights.experts()] = row;

  compute_expert_mlp(weights, {x, token_of_row, first, norm}, dispatch_bf16, out, runner);

  parallel_for_rows(runner, routing.tokens, [&](size_t begin, size_t end) {
    for (size_t token = begin; token < end; ++token) {
      const float* from = x + token * hidden;
      float* to = y + token * hidden;
      const int32_t* slot = routing.slot + token * routing.choices;
      const float* weight = routing.weight + token * routing.choices;
      // The first kept pair adds to x, each other one to those before.
      for (size_t k = 0; k < routing.choices; ++k) {
        if (slot[k] < 0) continue;
        const float* expert = out + static_cast<size_t>(row_of_place[slot[k]]) * hidden;
        for (size_t d = 0; d < hidden; ++d) to[d] = from[d] + weight[k] * expert[d];
        from = to;
      }
      if (from != to) std::copy_n(from, hidden, to);
    }
  });
}

}  // namespace vmoe
