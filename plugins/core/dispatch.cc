#include "core/dispatch.h"

#include <algorithm>
#include <cstring>

#include "core/float_conversion.h"
#include "core/routing.h"
#include "core/workspace.h"

namespace vmoe {
namespace {

// y = sum over the token's pairs of weight * out[row]; a row of -1 adds nothing. `row` is i32[K].
void combine_token(const float* out, const int32_t* row, const float* weight, size_t choices, size_t hidden, float* y) {
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
void combine_half_token(ElementType type, const uint16_t* out, const int32_t* row, const float* weight, size_t choices,
                        size_t hidden, uint16_t* y) {
  constexpr size_t kBlock = 256;
  float from[kBlock];
  float sum[kBlock];
  for (size_t first = 0; first < hidden; first += kBlock) {
    const size_t count = std::min(kBlock, hidden - first);
    std::fill(sum, sum + count, 0.0f);
    for (size_t k = 0; k < choices; ++k) {
      if (row[k] < 0) continue;
      widen(type, out + static_cast<size_t>(row[k]) * hidden + first, count, from);
      if (k == 0) {
        for (size_t d = 0; d < count; ++d) sum[d] = weight[k] * from[d];
      } else {
        for (size_t d = 0; d < count; ++d) sum[d] += weight[k] * from[d];
      }
    }
    narrow(type, sum, count, y + first);
  }
}

}  // namespace

void dispatch(const void* x, const int32_t* src, size_t slots, size_t row_bytes, void* buf, const TaskRunner& runner) {
  parallel_for_rows(runner, slots, [&](size_t first, size_t end) {
    for (size_t slot = first; slot < end; ++slot) {
      char* to = static_cast<char*>(buf) + slot * row_bytes;
      if (src[slot] < 0) {
        std::memset(to, 0, row_bytes);
      } else {
        std::memcpy(to, static_cast<const char*>(x) + static_cast<size_t>(src[slot]) * row_bytes, row_bytes);
      }
    }
  });
}

void route_dispatch(const RoutingShape& shape, ElementType gate_type, const void* gates, const void* x,
                    size_t row_bytes, int32_t* slot, void* weight, void* buf, const TaskRunner& runner) {
  const size_t slots = shape.experts * shape.slots();
  int32_t* src = nullptr;
  Workspace workspace;
  take_all(workspace, [&](auto& memory) { src = memory.template take<int32_t>(slots); });
  route(shape, gate_type, gates, slot, weight, src, runner);
  dispatch(x, src, slots, row_bytes, buf, runner);
}

void combine(ElementType type, const void* out, const int32_t* slot, ElementType weight_type, const void* weight,
             size_t tokens, size_t choices, size_t hidden, void* y, const TaskRunner& runner) {
  Workspace workspace;
  const auto* wide_weight = static_cast<const float*>(weight);
  if (weight_type != ElementType::kFloat32) {
    float* wide = nullptr;
    take_all(workspace, [&](auto& memory) { wide = memory.template take<float>(tokens * choices); });
    widen(weight_type, weight, tokens * choices, wide);
    wide_weight = wide;
  }
  parallel_for_rows(runner, tokens, [&](size_t first, size_t end) {
    for (size_t token = first; token < end; ++token) {
      const int32_t* row = slot + token * choices;
      const float* scale = wide_weight + token * choices;
      if (type == ElementType::kFloat32) {
        combine_token(static_cast<const float*>(out), row, scale, choices, hidden,
                      static_cast<float*>(y) + token * hidden);
      } else {
        combine_half_token(type, static_cast<const uint16_t*>(out), row, scale, choices, hidden,
                           static_cast<uint16_t*>(y) + token * hidden);
      }
    }
  });
}

}  // namespace vmoe
