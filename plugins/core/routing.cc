#include "core/routing.h"

#include <algorithm>
#include <cmath>

#include "core/float_conversion.h"
#include "core/gate_order.h"

namespace vmoe {
namespace {

constexpr size_t kTokensPerTask = 64;

}  // namespace

float ChooseExperts(const float* gates, size_t experts, size_t choices, int32_t* expert, float* weight) {
  float best = 0;
  size_t chosen = 0;
  for (size_t e = 0; e < experts; ++e) {
    const float rank = std::isnan(gates[e]) ? 0.0f : gates[e];
    // Behind all that rank as high, so that the lower expert stays first.
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

void GivePlaces(const RoutingShape& shape, size_t group, const int32_t* expert, const float* priority, int32_t* slot,
                int32_t* kept, uint64_t* order) {
  if (shape.batch_priority) {
    for (size_t token = 0; token < shape.tokens; ++token) {
      order[token] = static_cast<uint64_t>(DescendingBits(priority[token])) << 32 | token;
    }
    std::sort(order, order + shape.tokens);
  }
  std::fill(kept, kept + shape.experts, 0);
  for (size_t choice = 0; choice < shape.choices; ++choice) {
    for (size_t turn = 0; turn < shape.tokens; ++turn) {
      const size_t token = shape.batch_priority ? static_cast<uint32_t>(order[turn]) : turn;
      const size_t pair = token * shape.choices + choice;
      const int32_t e = expert[pair];
      if (static_cast<size_t>(kept[e]) < shape.capacity) {
        const size_t place = group * shape.capacity + static_cast<size_t>(kept[e]++);
        slot[pair] = static_cast<int32_t>(static_cast<size_t>(e) * shape.places() + place);
      } else {
        slot[pair] = -1;
      }
    }
  }
}

void Route(const RoutingShape& shape, ElementType type, const void* gates, int32_t* slot, void* weight, int32_t* src,
           const TaskRunner& runner) {
  const size_t tokens = shape.groups * shape.tokens;
  const size_t pairs = tokens * shape.choices;
  // Gates and weights in half precision are widened here first.
  const bool half = type != ElementType::kFloat32;
  Workspace workspace;
  workspace.Reserve(Workspace::Bytes<int32_t>(pairs) + Workspace::Bytes<float>(tokens) +
                    Workspace::Bytes<int32_t>(shape.groups * shape.experts) + Workspace::Bytes<uint64_t>(tokens) +
                    Workspace::Bytes<float>(half ? tokens * shape.experts : 0) +
                    Workspace::Bytes<float>(half ? pairs : 0));
  auto* expert = workspace.Take<int32_t>(pairs);
  auto* priority = workspace.Take<float>(tokens);
  auto* kept = workspace.Take<int32_t>(shape.groups * shape.experts);
  auto* order = workspace.Take<uint64_t>(tokens);
  auto* wide_gates = workspace.Take<float>(half ? tokens * shape.experts : 0);
  auto* wide_weight = workspace.Take<float>(half ? pairs : 0);
  ParallelFor(runner, (tokens + kTokensPerTask - 1) / kTokensPerTask, [&](size_t task) {
    const size_t end = std::min(tokens, (task + 1) * kTokensPerTask);
    for (size_t token = task * kTokensPerTask; token < end; ++token) {
      const size_t pair = token * shape.choices;
      if (!half) {
        priority[token] = ChooseExperts(static_cast<const float*>(gates) + token * shape.experts, shape.experts,
                                        shape.choices, expert + pair, static_cast<float*>(weight) + pair);
        continue;
      }
      const uint16_t* bits = static_cast<const uint16_t*>(gates) + token * shape.experts;
      float* wide = wide_gates + token * shape.experts;
      Widen(type, bits, shape.experts, wide);
      priority[token] = ChooseExperts(wide, shape.experts, shape.choices, expert + pair, wide_weight + pair);
      for (size_t i = pair; i < pair + shape.choices; ++i) static_cast<uint16_t*>(weight)[i] = bits[expert[i]];
    }
  });
  std::fill(src, src + shape.experts * shape.places(), -1);
  ParallelFor(runner, shape.groups, [&](size_t group) {
    const size_t first = group * shape.tokens;
    const size_t first_pair = first * shape.choices;
    GivePlaces(shape, group, expert + first_pair, priority + first, slot + first_pair, kept + group * shape.experts,
               order + first);
    for (size_t pair = first_pair; pair < first_pair + shape.tokens * shape.choices; ++pair) {
      if (slot[pair] >= 0) src[slot[pair]] = static_cast<int32_t>(pair / shape.choices);
    }
  });
}

}  // namespace vmoe
