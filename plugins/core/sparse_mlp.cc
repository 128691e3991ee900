#include "core/sparse_mlp.h"

#include <algorithm>

#include "core/combine.h"
#include "core/gates.h"
#include "core/workspace.h"

namespace vmoe {
void SparseMlp(const SparseMlpWeights& weights, const RoutingShape& shape, bool dispatch_bf16, const float* x, float* y,
               int32_t* slot, float* weight, const TaskRunner& runner) {
  const size_t tokens = shape.groups * shape.tokens;
  const size_t pairs = tokens * shape.choices;
  const size_t cells = shape.groups * shape.experts;
  const size_t hidden = weights.router->depth();
  // No more pairs are kept than there are places.
  const size_t most_rows = shape.capacity < shape.tokens ? std::min(pairs, shape.experts * shape.places()) : pairs;

  Workspace workspace;
  workspace.Reserve(Workspace::Bytes<float>(tokens * shape.experts) + 3 * Workspace::Bytes<int32_t>(pairs) +
                    Workspace::Bytes<float>(pairs) + Workspace::Bytes<float>(tokens) +
                    Workspace::Bytes<uint64_t>(tokens) + Workspace::Bytes<int32_t>(cells) +
                    Workspace::Bytes<size_t>(cells) + Workspace::Bytes<size_t>(shape.experts + 1) +
                    Workspace::Bytes<int32_t>(most_rows) + Workspace::Bytes<float>(most_rows * hidden));
  auto* gates = workspace.Take<float>(tokens * shape.experts);
  auto* expert = workspace.Take<int32_t>(pairs);
  auto* own_slot = workspace.Take<int32_t>(pairs);
  auto* row_of_pair = workspace.Take<int32_t>(pairs);
  auto* own_weight = workspace.Take<float>(pairs);
  auto* priority = workspace.Take<float>(tokens);
  auto* order = workspace.Take<uint64_t>(tokens);
  auto* kept = workspace.Take<int32_t>(cells);          // [G,E]
  auto* first_of_cell = workspace.Take<size_t>(cells);  // [G,E]
  auto* first = workspace.Take<size_t>(shape.experts + 1);
  auto* token_of_row = workspace.Take<int32_t>(most_rows);
  auto* out = workspace.Take<float>(most_rows * hidden);
  if (slot == nullptr) slot = own_slot;
  if (weight == nullptr) weight = own_weight;

  ParallelForRows(runner, tokens, [&](size_t begin, size_t end) {
    ComputeGates(*weights.router, {}, x + begin * hidden, end - begin, nullptr, gates + begin * shape.experts);
    for (size_t token = begin; token < end; ++token) {
      priority[token] = ChooseExperts(gates + token * shape.experts, shape.experts, shape.choices,
                                      expert + token * shape.choices, weight + token * shape.choices);
    }
  });
  ParallelFor(runner, shape.groups, [&](size_t group) {
    const size_t token = group * shape.tokens;
    const size_t pair = token * shape.choices;
    GivePlaces(shape, group, expert + pair, priority + token, slot + pair, kept + group * shape.experts, order + token);
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
  ParallelFor(runner, shape.groups, [&](size_t group) {
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

  ExpertMlp(weights.experts, {x, token_of_row, first, {}}, dispatch_bf16, out, runner);
  Combine(ElementType::kFloat32, out, row_of_pair, ElementType::kFloat32, weight, tokens, shape.choices, hidden, y,
          runner);
}

}  // namespace vmoe
