#include "core/soft_moe.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/panel_tasks.h"
#include "core/workspace.h"

namespace vmoe {
namespace {

constexpr float kEpsilon = 1e-6f;
constexpr size_t kSlotsPerTask = 16;    // a thread computes the softmax over the tokens for this many slots at a time
constexpr size_t kTokensPerTask = 128;  // number of tokens that one thread combines at a time
constexpr size_t kSums = 16;  // number of partial sums that are added up side by side when a length is computed

float length_from_square(float square) { return std::sqrt(square + kEpsilon); }

float length_of(const float* row, size_t count) {
  float sums[kSums] = {};
  const size_t whole = count / kSums * kSums;
  for (size_t i = 0; i < whole; i += kSums) {
    for (size_t j = 0; j < kSums; ++j) sums[j] += row[i + j] * row[i + j];
  }
  float sum = 0;
  for (size_t i = whole; i < count; ++i) sum += row[i] * row[i];
  for (float part : sums) sum += part;
  return length_from_square(sum);
}

std::vector<float> unit_columns(const float* mu, size_t hidden, size_t columns) {
  std::vector<float> length(columns, 0.0f);
  for (size_t d = 0; d < hidden; ++d) {
    for (size_t i = 0; i < columns; ++i) length[i] += mu[d * columns + i] * mu[d * columns + i];
  }
  for (float& value : length) value = length_from_square(value);
  std::vector<float> unit(hidden * columns);
  for (size_t d = 0; d < hidden; ++d) {
    for (size_t i = 0; i < columns; ++i) unit[d * columns + i] = mu[d * columns + i] / length[i];
  }
  return unit;
}

// Computes logits f32[count, E*P] for `count` tokens.
void compute_logits(const PackedWeights& slots, float scale, const float* x, size_t count, float* logits) {
  const size_t hidden = slots.depth();
  const size_t columns = slots.columns();
  multiply_rows(slots, x, count, logits);
  for (size_t token = 0; token < count; ++token) {
    const float factor = scale / length_of(x + token * hidden, hidden);
    for (size_t i = 0; i < columns; ++i) logits[token * columns + i] *= factor;
  }
}

}  // namespace

std::shared_ptr<const PackedWeights> pack_slots(const Kernels& kernels, const float* mu, size_t hidden,
                                                size_t all_slots) {
  const std::vector<float> unit = unit_columns(mu, hidden, all_slots);
  StoredWeights weights;
  weights.data = unit.data();
  weights.matrices = 1;
  weights.depth = hidden;
  weights.columns = all_slots;
  return PackedWeights::share(kernels, weights);
}

void compute_soft_router(const PackedWeights& slots, float scale, const SoftShape& shape, const float* x,
                         float* dispatch, float* combine, const TaskRunner& runner) {
  const Kernels& kernels = slots.kernels();
  const size_t columns = shape.all_slots();
  if (columns == 0) return;
  parallel_for_rows(runner, shape.groups * shape.tokens, [&](size_t begin, size_t end) {
    float* logits = dispatch + begin * columns;
    compute_logits(slots, scale, x + begin * shape.hidden, end - begin, logits);
    std::copy(logits, dispatch + end * columns, combine + begin * columns);
    for (size_t token = begin; token < end; ++token) kernels.softmax(combine + token * columns, columns);
  });
  const size_t blocks = divide_up(columns, kSlotsPerTask);
  parallel_for(runner, shape.tokens == 0 ? 0 : shape.groups * blocks, [&](size_t task) {
    const size_t first = task % blocks * kSlotsPerTask;
    const size_t count = std::min(kSlotsPerTask, columns - first);
    float* logits = dispatch + task / blocks * shape.tokens * columns + first;
    Workspace scratch;
    auto* by_slot = scratch.take<float>(count * shape.tokens);
    kernels.transpose(logits, columns, count, shape.tokens, by_slot, shape.tokens);
    for (size_t i = 0; i < count; ++i) kernels.softmax(by_slot + i * shape.tokens, shape.tokens);
    kernels.transpose(by_slot, shape.tokens, shape.tokens, count, logits, columns);
  });
}

void soft_dispatch(const Kernels& kernels, const SoftShape& shape, bool round_bf16, const float* x,
                   const float* dispatch, float* buf, const TaskRunner& runner) {
  const size_t rows = shape.all_slots();
  const size_t panels = divide_up(shape.hidden, kernels.panel_columns);
  if (rows == 0) return;
  Workspace workspace;
  auto* shares = workspace.take<float>(shape.groups * rows * shape.tokens);  // [G, E*P, S]
  const size_t blocks = divide_up(rows, kSlotsPerTask);
  parallel_for(runner, shape.groups * blocks, [&](size_t task) {
    const size_t first = task % blocks * kSlotsPerTask;
    const size_t begin = task / blocks * rows * shape.tokens;
    kernels.transpose(dispatch + begin + first, rows, std::min(kSlotsPerTask, rows - first), shape.tokens,
                      shares + begin + first * shape.tokens, shape.tokens);
  });
  parallel_for(runner, shape.groups * panels, [&](size_t task) {
    const size_t group = task / panels;
    const size_t column = task % panels * kernels.panel_columns;
    const size_t columns = std::min(kernels.panel_columns, shape.hidden - column);
    const size_t elements = panel_elements(kernels, shape.tokens, columns);
    Workspace scratch;
    auto* panel = scratch.take<float>(elements);
    auto* mixed = scratch.take<float>(rows * columns);
    pack_panel(kernels, x + group * shape.tokens * shape.hidden + column, shape.hidden, shape.tokens, columns, panel);
    if (round_bf16) kernels.round_bf16(panel, elements, panel);
    multiply_panel(kernels, shares + group * rows * shape.tokens, shape.tokens, rows, shape.tokens, panel, columns,
                   mixed, columns);
    for (size_t row = 0; row < rows; ++row) {
      const size_t slot = row / shape.slots * shape.expert_slots() + group * shape.slots + row % shape.slots;
      std::copy_n(mixed + row * columns, columns, buf + slot * shape.hidden + column);
    }
  });
}

void soft_combine(const Kernels& kernels, const SoftShape& shape, bool round_bf16, const float* out,
                  const float* combine, float* y, const TaskRunner& runner) {
  const size_t depth = shape.all_slots();
  const size_t panels = divide_up(shape.hidden, kernels.panel_columns);
  const size_t blocks = divide_up(shape.tokens, kTokensPerTask);
  parallel_for(runner, shape.groups * panels * blocks, [&](size_t task) {
    const size_t group = task / (panels * blocks);
    const size_t column = task / blocks % panels * kernels.panel_columns;
    const size_t columns = std::min(kernels.panel_columns, shape.hidden - column);
    const size_t first = group * shape.tokens + task % blocks * kTokensPerTask;
    const size_t elements = panel_elements(kernels, depth, columns);
    Workspace scratch;
    auto* panel = scratch.take<float>(elements);
    for (size_t expert = 0; expert < shape.experts; ++expert) {
      const float* rows = out + (expert * shape.expert_slots() + group * shape.slots) * shape.hidden + column;
      pack_panel(kernels, rows, shape.hidden, shape.slots, columns,
                 panel + panel_elements(kernels, expert * shape.slots, columns));
    }
    if (round_bf16) kernels.round_bf16(panel, elements, panel);
    const size_t count = std::min(kTokensPerTask, (group + 1) * shape.tokens - first);
    multiply_panel(kernels, combine + first * depth, depth, count, depth, panel, columns,
                   y + first * shape.hidden + column, shape.hidden);
  });
}

}  // namespace vmoe
