#include "core/choose_tokens.h"

#include <algorithm>
#include <atomic>
#include <new>

#include "core/gate_order.h"
#include "core/workspace.h"

namespace vmoe {
namespace {

// One expert of one group. `keys` u64[S] is scratch.
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
  const size_t begin = expert * shape.places() + group * shape.capacity;
  for (size_t rank = 0; rank < taken; ++rank) {
    const size_t token = first + static_cast<uint32_t>(keys[rank]);
    slot[token * shape.experts + expert] = static_cast<int32_t>(begin + rank);
    src[begin + rank] = static_cast<int32_t>(token);
  }
  std::fill(src + begin + taken, src + begin + shape.capacity, -1);
}

}  // namespace

void choose_tokens(const RoutingShape& shape, const float* gates, int32_t* slot, int32_t* src,
                   const TaskRunner& runner) {
  std::atomic<bool> out_of_memory{false};
  parallel_for(runner, shape.groups * shape.experts, [&](size_t task) {
    try {
      uint64_t* keys = nullptr;
      Workspace scratch;
      take_all(scratch, [&](auto& memory) { keys = memory.template take<uint64_t>(shape.tokens); });
      choose_for_expert(shape, task / shape.experts, task % shape.experts, gates, keys, slot, src);
    } catch (const std::bad_alloc&) {
      out_of_memory = true;
    }
  });
  if (out_of_memory) throw std::bad_alloc();
}

}  // namespace vmoe
