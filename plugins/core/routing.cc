#include "core/routing.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>

#include "core/gate_order.h"
#include "core/workspace.h"

namespace vmoe {
namespace {

constexpr size_t kTokensPerTask = 64;
constexpr float kUnitsOfOne = 1 << 14;  // an expert's mass is a sum of gates, counted in units of 1 / kUnitsOfOne

// Sorts the tokens of a group by descending priority. This is the order in which tokens are served if batch_priority
// is set. Afterwards, the low 32 bits of order[turn] are the token that is served at that turn.
void serving_order(const RoutingShape& shape, const float* priority, uint64_t* order) {
  for (size_t token = 0; token < shape.tokens; ++token) {
    order[token] = static_cast<uint64_t>(descending_bits(priority[token])) << 32 | token;
  }
  std::sort(order, order + shape.tokens);
}

// Calls serve(pair, expert) for each pair in a group, in the order in which the pairs are served. A pair is a token
// and one of the experts that it chose. The first choices of all tokens come first, then their second choices, and so
// on. If batch_priority is set, tokens are served by descending priority, otherwise in the order of the group.
template <class Serve>
void serve_in_order(const RoutingShape& shape, const int32_t* expert, const float* priority, uint64_t* order,
                    const Serve& serve) {
  if (shape.batch_priority) serving_order(shape, priority, order);
  for (size_t choice = 0; choice < shape.choices; ++choice) {
    for (size_t turn = 0; turn < shape.tokens; ++turn) {
      const size_t token = shape.batch_priority ? static_cast<uint32_t>(order[turn]) : turn;
      const size_t pair = token * shape.choices + choice;
      serve(pair, expert[pair]);
    }
  }
}

// Computes `limit`, i32[E]: the maximum number of pairs that each expert may keep in a group. If a group may not use
// an expert, the expert's limit is 0.
void limit_experts(const RoutingShape& shape, const int32_t* expert, const float* priority, int64_t* mass,
                   int32_t* ranking, int32_t* limit) {
  const int32_t most = shape.pool ? INT32_MAX : static_cast<int32_t>(std::min<size_t>(shape.capacity, INT32_MAX));
  if (shape.max_experts >= shape.experts) {
    std::fill(limit, limit + shape.experts, most);
    return;
  }
  std::fill(mass, mass + shape.experts, 0);
  for (size_t token = 0; token < shape.tokens; ++token) {
    const float share = std::min(std::max(priority[token], 0.0f), 1.0f);
    mass[expert[token * shape.choices]] += static_cast<int64_t>(share * kUnitsOfOne);
  }
  std::iota(ranking, ranking + shape.experts, 0);
  std::sort(ranking, ranking + shape.experts,
            [&](int32_t a, int32_t b) { return mass[a] != mass[b] ? mass[a] > mass[b] : a < b; });
  std::fill(limit, limit + shape.experts, 0);
  for (size_t i = 0; i < shape.max_experts; ++i) limit[ranking[i]] = most;
}

// Decides which pairs a group keeps. The kept pairs of each expert in this group are numbered from 0, and this number
// is written to the pair's `slot`. The `slot` of a dropped pair becomes -1. `kept` receives the number of kept pairs
// for each expert.
void keep_pairs(const RoutingShape& shape, const int32_t* expert, const float* priority, const int32_t* limit,
                int32_t* slot, int32_t* kept, uint64_t* order) {
  std::fill(kept, kept + shape.experts, 0);
  size_t left = shape.pool ? shape.experts * shape.capacity : SIZE_MAX;
  serve_in_order(shape, expert, priority, order, [&](size_t pair, int32_t e) {
    if (kept[e] < limit[e] && left > 0) {
      slot[pair] = kept[e]++;
      --left;
    } else {
      slot[pair] = -1;
    }
  });
}

// Returns M, the number of slots that every expert has. `kept`, i32[G,E], is the number of pairs that each expert
// keeps in each group. Writes to `first`, i32[G,E], the number of the first slot that each group has in each expert.
size_t reserve_slots(const RoutingShape& shape, const int32_t* kept, int32_t* first) {
  size_t most = 1;
  for (size_t e = 0; e < shape.experts; ++e) {
    size_t taken = 0;
    for (size_t group = 0; group < shape.groups; ++group) {
      first[group * shape.experts + e] = static_cast<int32_t>(shape.pool ? taken : group * shape.capacity);
      taken += static_cast<size_t>(kept[group * shape.experts + e]);
    }
    most = std::max(most, taken);
  }
  return shape.pool ? most : shape.slots();
}

// Finds the K experts with the highest gates for one token. Writes the experts to `expert`, i32[K], and their gates
// to `weight`, f32[K]. If gates are equal, the expert with the lower index comes first. NaN ranks as 0. Returns the
// highest gate, or 0 if that gate is NaN.
float choose_experts(const float* gates, size_t experts, size_t choices, int32_t* expert, float* weight) {
  float best = 0;
  size_t chosen = 0;
  for (size_t e = 0; e < experts; ++e) {
    const float rank = std::isnan(gates[e]) ? 0.0f : gates[e];
    // If other experts have the same gate, this expert is inserted after them, so that the expert with the lower index
    // comes first.
    size_t place = chosen;
    while (place > 0) {
      const float other = gates[expert[place - 1]];
      if ((std::isnan(other) ? 0.0f : other) >= rank) break;
      --place;
    }
    if (place == choices) continue;
    chosen = std::min(chosen + 1, choices);
    for (size_t i = chosen - 1; i > place; --i) expert[i] = expert[i - 1];
    expert[place] = static_cast<int32_t>(e);
    if (place == 0) best = rank;
  }
  for (size_t i = 0; i < choices; ++i) weight[i] = gates[expert[i]];
  return best;
}

// Lets one expert choose its tokens from one group. `keys` u64[S] is scratch memory.
void choose_for_expert(const RoutingShape& shape, size_t group, size_t expert, const float* gates, uint64_t* keys,
                       int32_t* slot, int32_t* src) {
  const size_t first = group * shape.tokens;
  for (size_t token = 0; token < shape.tokens; ++token) {
    const size_t pair = (first + token) * shape.experts + expert;
    keys[token] = static_cast<uint64_t>(descending_bits(gates[pair])) << 32 | token;
    slot[pair] = -1;
  }
  const size_t taken = std::min(shape.capacity, shape.tokens);
  std::partial_sort(keys, keys + taken, keys + shape.tokens);
  const size_t begin = expert * shape.slots() + group * shape.capacity;
  for (size_t rank = 0; rank < taken; ++rank) {
    const size_t token = first + static_cast<uint32_t>(keys[rank]);
    slot[token * shape.experts + expert] = static_cast<int32_t>(begin + rank);
    src[begin + rank] = static_cast<int32_t>(token);
  }
  std::fill(src + begin + taken, src + begin + shape.capacity, -1);
}

}  // namespace

void route(const RoutingShape& shape, const float* gates, int32_t* slot, float* weight, const MakeSources& make_src,
           int32_t* expert, const TaskRunner& runner) {
  const size_t tokens = shape.groups * shape.tokens;
  const size_t cells = shape.groups * shape.experts;
  Workspace workspace;
  auto* priority = workspace.take<float>(tokens);
  auto* kept = workspace.take<int32_t>(cells);
  auto* order = workspace.take<uint64_t>(tokens);
  auto* limit = workspace.take<int32_t>(cells);
  auto* ranking = workspace.take<int32_t>(cells);
  auto* mass = workspace.take<int64_t>(cells);
  if (expert == nullptr) expert = workspace.take<int32_t>(tokens * shape.choices);
  parallel_for(runner, (tokens + kTokensPerTask - 1) / kTokensPerTask, [&](size_t task) {
    const size_t end = std::min(tokens, (task + 1) * kTokensPerTask);
    for (size_t token = task * kTokensPerTask; token < end; ++token) {
      const size_t pair = token * shape.choices;
      priority[token] =
          choose_experts(gates + token * shape.experts, shape.experts, shape.choices, expert + pair, weight + pair);
    }
  });
  parallel_for(runner, shape.groups, [&](size_t group) {
    const size_t first = group * shape.tokens;
    const size_t first_pair = first * shape.choices;
    const size_t cell = group * shape.experts;
    limit_experts(shape, expert + first_pair, priority + first, mass + cell, ranking + cell, limit + cell);
    keep_pairs(shape, expert + first_pair, priority + first, limit + cell, slot + first_pair, kept + cell,
               order + first);
  });
  int32_t* const first_slot = ranking;  // no longer needed
  const size_t slots = reserve_slots(shape, kept, first_slot);
  int32_t* const src = make_src(slots);
  std::fill(src, src + shape.experts * slots, -1);
  parallel_for(runner, shape.groups, [&](size_t group) {
    const size_t first_pair = group * shape.tokens * shape.choices;
    for (size_t pair = first_pair; pair < first_pair + shape.tokens * shape.choices; ++pair) {
      if (slot[pair] < 0) continue;
      const auto e = static_cast<size_t>(expert[pair]);
      slot[pair] += static_cast<int32_t>(e * slots) + first_slot[group * shape.experts + e];
      src[slot[pair]] = static_cast<int32_t>(pair / shape.choices);
    }
  });
}

void choose_tokens(const RoutingShape& shape, const float* gates, int32_t* slot, int32_t* src,
                   const TaskRunner& runner) {
  parallel_for(runner, shape.groups * shape.experts, [&](size_t task) {
    Workspace scratch;
    auto* keys = scratch.take<uint64_t>(shape.tokens);
    choose_for_expert(shape, task / shape.experts, task % shape.experts, gates, keys, slot, src);
  });
}

}  // namespace vmoe
