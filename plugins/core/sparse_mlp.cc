#include "core/sparse_mlp.h"

#include <algorithm>
#include <cstring>

namespace vmoe {
namespace {

constexpr size_t kRowsPerTask = 32;

size_t Tasks(size_t rows) { return (rows + kRowsPerTask - 1) / kRowsPerTask; }

// Gates of the tokens `first` to `end`, f32[.., E].
void ComputeGates(const PackedWeights& router, const float* x, size_t first, size_t end, float* gates) {
  const size_t hidden = router.depth();
  const size_t experts = router.columns();
  for (size_t panel = 0; panel < router.panels(); ++panel) {
    PanelProduct product;
    product.rows = x + first * hidden;
    product.row_stride = hidden;
    product.row_count = end - first;
    product.depth = hidden;
    product.panel = router.Panel(0, panel);
    product.columns = router.PanelColumns(panel);
    product.out = gates + first * experts + panel * router.kernels().panel_columns;
    product.out_stride = experts;
    router.kernels().product_f32(product);
  }
  for (size_t token = first; token < end; ++token) router.kernels().softmax(gates + token * experts, experts);
}

// y = sum over the token's pairs of weight * out[row]; a row of -1 adds nothing. `row` is i32[K].
void CombineToken(const float* out, const int32_t* row, const float* weight, size_t choices, size_t hidden, float* y) {
  if (choices == 0) std::fill(y, y + hidden, 0.0f);
  for (size_t k = 0; k < choices; ++k) {
    if (row[k] < 0) {
      if (k == 0) std::fill(y, y + hidden, 0.0f);
      continue;
    }
    const float* from = out + static_cast<size_t>(row[k]) * hidden;
    const float scale = weight[k];
    if (k == 0) {
      for (size_t d = 0; d < hidden; ++d) y[d] = scale * from[d];
    } else {
      for (size_t d = 0; d < hidden; ++d) y[d] += scale * from[d];
    }
  }
}

// The same with values in half precision.
void CombineHalfToken(FloatType type, const uint16_t* out, const int32_t* row, const float* weight, size_t choices,
                      size_t hidden, uint16_t* y) {
  constexpr size_t kBlock = 256;
  float from[kBlock];
  float sum[kBlock];
  for (size_t first = 0; first < hidden; first += kBlock) {
    const size_t count = std::min(kBlock, hidden - first);
    std::fill(sum, sum + count, 0.0f);
    for (size_t k = 0; k < choices; ++k) {
      if (row[k] < 0) continue;
      Widen(type, out + static_cast<size_t>(row[k]) * hidden + first, count, from);
      if (k == 0) {
        for (size_t d = 0; d < count; ++d) sum[d] = weight[k] * from[d];
      } else {
        for (size_t d = 0; d < count; ++d) sum[d] += weight[k] * from[d];
      }
    }
    Narrow(type, sum, count, y + first);
  }
}

}  // namespace

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
                    Workspace::Bytes<int32_t>(most_rows) + Workspace::Bytes<float>(most_rows * hidden) +
                    ExpertMlpBytes(weights.experts, most_rows, dispatch_bf16));
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

  ParallelFor(runner, Tasks(tokens), [&](size_t task) {
    const size_t begin = task * kRowsPerTask;
    const size_t end = std::min(tokens, begin + kRowsPerTask);
    ComputeGates(*weights.router, x, begin, end, gates);
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

  ExpertMlp(weights.experts, {x, token_of_row, first}, dispatch_bf16, out, workspace, runner);
  Combine(FloatType::kFloat32, out, row_of_pair, FloatType::kFloat32, weight, tokens, shape.choices, hidden, y, runner);
}

void Dispatch(const void* x, const int32_t* src, size_t places, size_t row_bytes, void* buf, const TaskRunner& runner) {
  ParallelFor(runner, Tasks(places), [&](size_t task) {
    for (size_t place = task * kRowsPerTask; place < std::min(places, (task + 1) * kRowsPerTask); ++place) {
      char* to = static_cast<char*>(buf) + place * row_bytes;
      if (src[place] < 0) {
        std::memset(to, 0, row_bytes);
      } else {
        std::memcpy(to, static_cast<const char*>(x) + static_cast<size_t>(src[place]) * row_bytes, row_bytes);
      }
    }
  });
}

void RouteDispatch(const RoutingShape& shape, FloatType gate_type, const void* gates, const void* x, size_t row_bytes,
                   int32_t* slot, void* weight, void* buf, const TaskRunner& runner) {
  const size_t places = shape.experts * shape.places();
  Workspace workspace;
  workspace.Reserve(Workspace::Bytes<int32_t>(places));
  auto* src = workspace.Take<int32_t>(places);
  Route(shape, gate_type, gates, slot, weight, src, runner);
  Dispatch(x, src, places, row_bytes, buf, runner);
}

void Combine(FloatType type, const void* out, const int32_t* slot, FloatType weight_type, const void* weight,
             size_t tokens, size_t choices, size_t hidden, void* y, const TaskRunner& runner) {
  Workspace workspace;
  const auto* wide_weight = static_cast<const float*>(weight);
  if (weight_type != FloatType::kFloat32) {
    workspace.Reserve(Workspace::Bytes<float>(tokens * choices));
    auto* wide = workspace.Take<float>(tokens * choices);
    Widen(weight_type, weight, tokens * choices, wide);
    wide_weight = wide;
  }
  ParallelFor(runner, Tasks(tokens), [&](size_t task) {
    for (size_t token = task * kRowsPerTask; token < std::min(tokens, (task + 1) * kRowsPerTask); ++token) {
      const int32_t* row = slot + token * choices;
      const float* scale = wide_weight + token * choices;
      if (type == FloatType::kFloat32) {
        CombineToken(static_cast<const float*>(out), row, scale, choices, hidden,
                     static_cast<float*>(y) + token * hidden);
      } else {
        CombineHalfToken(type, static_cast<const uint16_t*>(out), row, scale, choices, hidden,
                         static_cast<uint16_t*>(y) + token * hidden);
      }
    }
  });
}

}  // namespace vmoe
