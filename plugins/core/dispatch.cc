#include "core/dispatch.h"

#include <algorithm>
#include <cstring>

#include "core/bfloat16.h"
#include "core/float16.h"
#include "core/routing.h"
#include "core/workspace.h"

namespace vmoe {
namespace {

// wide[0:count] = values[0:count], which are float32, float16 or bfloat16; exact.
void widen(ElementType type, const void* values, size_t count, float* wide) {
  if (type == ElementType::kFloat32) {
    std::memcpy(wide, values, count * sizeof(float));
    return;
  }
  const auto* half = static_cast<const uint16_t*>(values);
  if (type == ElementType::kFloat16) {
    for (size_t i = 0; i < count; ++i) wide[i] = from_fp16(half[i]);
  } else {
    for (size_t i = 0; i < count; ++i) wide[i] = from_bf16(half[i]);
  }
}

// values[0:count] = wide[0:count] in float32, float16 or bfloat16, to nearest, ties to even; a NaN stays a NaN.
void narrow(ElementType type, const float* wide, size_t count, void* values) {
  if (type == ElementType::kFloat32) {
    std::memcpy(values, wide, count * sizeof(float));
    return;
  }
  auto* half = static_cast<uint16_t*>(values);
  if (type == ElementType::kFloat16) {
    for (size_t i = 0; i < count; ++i) half[i] = to_fp16(wide[i]);
  } else {
    for (size_t i = 0; i < count; ++i) half[i] = to_bf16(wide[i]);
  }
}

// y = sum over the token's pairs of weight * out[row] in float32; a row of -1 adds nothing. `row` is i32[K]. The values
// of out and y have `type`.
void combine_token(ElementType type, const void* out, const int32_t* row, const float* weight, size_t choices,
                   size_t hidden, char* y) {
  constexpr size_t kBlock = 256;
  const size_t bytes = bytes_of(type);
  float from[kBlock];
  float sum[kBlock];
  for (size_t first = 0; first < hidden; first += kBlock) {
    const size_t count = std::min(kBlock, hidden - first);
    std::fill(sum, sum + count, 0.0f);
    for (size_t k = 0; k < choices; ++k) {
      if (row[k] < 0) continue;
      widen(type, static_cast<const char*>(out) + (static_cast<size_t>(row[k]) * hidden + first) * bytes, count, from);
      if (k == 0) {
        for (size_t d = 0; d < count; ++d) sum[d] = weight[k] * from[d];
      } else {
        for (size_t d = 0; d < count; ++d) sum[d] += weight[k] * from[d];
      }
    }
    narrow(type, sum, count, y + first * bytes);
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

void route_dispatch(const RoutingShape& shape, const float* gates, const void* x, size_t row_bytes, int32_t* slot,
                    float* weight, void* buf, const TaskRunner& runner) {
  const size_t slots = shape.experts * shape.slots();
  Workspace workspace;
  auto* src = workspace.take<int32_t>(slots);
  route(shape, gates, slot, weight, [src](size_t) { return src; }, nullptr, runner);
  dispatch(x, src, slots, row_bytes, buf, runner);
}

void combine(ElementType type, const void* out, const int32_t* slot, const float* weight, size_t tokens, size_t choices,
             size_t hidden, void* y, const TaskRunner& runner) {
  parallel_for_rows(runner, tokens, [&](size_t first, size_t end) {
    for (size_t token = first; token < end; ++token) {
      combine_token(type, out, slot + token * choices, weight + token * choices, choices, hidden,
                    static_cast<char*>(y) + token * hidden * bytes_of(type));
    }
  });
}

}  // namespace vmoe
