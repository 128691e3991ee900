#include "core/sparse_mlp.h"

#include <algorithm>

#include "core/combine.h"
#include "core/gates.h"
#include "core/workspace.h"

namespace vmoe {
void compute_sparse_mlp(const SparseMlpWeights& weights, const RoutingShape& shape, bool dispatch_bf16, const float* x,
                        float* y, int32_t* slot, float* weight, const TaskRunner& runner) {
  const size_t tokens = shape.groups * shape.tokens;
  const size_t pairs = tokens * shape.choices;
  const size_t cells = shape.groups * shape.experts;
  const size_t hidden = weights.router->depth();
  // No more pairs are kept than there are places.
  const size_t most_rows = shape.capacity < shape.tokens ? std::min(pairs, shape.experts * shape.places()) : pairs;

  Workspace workspace;
  workspace.reserve(Workspace::bytes_to_take<float>(tokens * shape.experts) +
                    3 * Workspace::bytes_to_take<int32_t>(pairs) + Workspace::bytes_to_take<float>(pairs) +
                    Workspace::bytes_to_take<float>(tokens) + Workspace::bytes_to_take<uint64_t>(tokens) +
                    Workspace::bytes_to_take<int32_t>(cells) + Workspace::bytes_to_take<size_t>(cells) +
                    Workspace::bytes_to_take<size_t>(shape.experts + 1) + Workspace::bytes_to_take<int32_t>(most_rows) +
                    Workspace::bytes_to_take<float>(most_rows * hidden));
  auto* gates = workspace.take<float>(tokens * shape.experts);
  auto* expert = workspace.take<int32_t>(pairs);
  auto* own_slot = workspace.take<int32_t>(pairs);
  auto* row_of_pair = workspace.take<int32_t>(pairs);
  auto* own_weight = workspace.take<float>(pairs);
  auto* priority = workspace.take<float>(tokens);
  auto* order = workspace.take<uint64_t>(tokens);
  auto* kept = workspace.take<int32_t>(cells);          // [G,E]
  auto* first_of_cell = workspace.take<size_t>(cells);  // [G,E]
  auto* first = workspace.take<size_t>(shape.experts + 1);
  auto* token_of_row = workspace.take<int32_t>(most_rows);
  auto* out = workspace.take<float>(most_rows * hidden);
  if (slot == nullptr) slot = own_slot;
  if (weight == nullptr) weight = own_weight;

  parallel_for_rows(runner, tokens, [&](size_t begin, size_t end) {
    compute_gates(*weights.router, {}, x + begin * hidden, end - begin, nullptr, gates + begin * shape.experts);
    for (size_t token = begin; token < end; ++token) {
      priority[token] = choose_experts(gates + token * shape.experts, shape.experts, shape.choices,
                                       expert + token * shape.choices, weight + token * shape.choices);
    }
  });
  parallel_for(runner, shape.groups, [&](size_t group) {
    const size_t token = group * shape.tokens;
    const size_t pair = token * shape.choices;
    give_places(shape, group, expert + pair, priority + token, slot + pair, kept + group * shape.experts,
                order + token);
  });

  // The rows of an expert are its kept pairs, by group and place.
  size_t row = 0;
  for (size_t e = 0; e < shape.experts; ++e) {
    first[e] = row;
    for (size_t group = 0; group < shape.groups; ++group) {
      const size_t cell = group * shape.experts + e;
      first_of_cell[cell] = row;
      row += static_cast<size_t>(kept[cell]);
    }
  }
  first[shape.experts] = row;
  parallel_for(runner, shape.groups, [&](size_t group) {
    const size_t first_pair = group * shape.tokens * shape.choices;
    for (size_t pair = first_pair; pair < first_pair + shape.tokens * shape.choices; ++pair) {
      row_of_pair[pair] = -1;
      if (slot[pair] < 0) continue;
      const auto e = static_cast<size_t>(expert[pair]);
      const size_t place = static_cast<size_t>(slot[pair]) - e * shape.places() - group * shape.capacity;
      const size_t mine = first_of_cell[group * shape.experts + e] + place;
      row_of_pair[pair] = static_cast<int32_t>(mine);
      token_of_row[mine] = static_cast<int32_t>(pair / shape.choices);
    }
  });

  compute_expert_mlp(weights.experts, {x, token_of_row, first, {}}, dispatch_bf16, out, runner);
  combine(ElementType::kFloat32, out, row_of_pair, ElementType::kFloat32, weight, tokens, shape.choices, hidden, y,
          runner);
}

}  // namespace vmoe
