#include "core/dispatch.h"

#include <algorithm>
#include <cstring>

#include "core/element.h"
#include "core/routing.h"
#include "core/workspace.h"

namespace vmoe {
namespace {

// Computes the output of one token, y = the sum over its K choices of weight[k] * out[row[k]], in float32. A choice
// whose row is -1 adds nothing. `row` is i32[K].
template <class T>
void combine_token(const T* out, const int32_t* row, const float* weight, size_t choices, size_t hidden, T* y) {
  constexpr size_t kBlock = 256;
  float sum[kBlock];
  for (size_t first = 0; first < hidden; first += kBlock) {
    const size_t count = std::min(kBlock, hidden - first);
    std::fill(sum, sum + count, 0.0f);
    for (size_t k = 0; k < choices; ++k) {
      if (row[k] < 0) continue;
      const T* from = out + static_cast<size_t>(row[k]) * hidden + first;
      for (size_t d = 0; d < count; ++d) {
        const float product = weight[k] * to_float(from[d]);
        sum[d] = k == 0 ? product : sum[d] + product;
      }
    }
    for (size_t d = 0; d < count; ++d) y[first + d] = from_float<T>(sum[d]);
  }
}

template <class T>
void combine_as(const void* out, const int32_t* slot, const float* weight, size_t tokens, size_t choices, size_t hidden,
                void* y, const TaskRunner& runner) {
  parallel_for_rows(runner, tokens, [&](size_t first, size_t end) {
    for (size_t token = first; token < end; ++token) {
      combine_token(static_cast<const T*>(out), slot + token * choices, weight + token * choices, choices, hidden,
                    static_cast<T*>(y) + token * hidden);
    }
  });
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
  const auto combine_typed = type == ElementType::kFloat16    ? combine_as<Float16>
                             : type == ElementType::kBfloat16 ? combine_as<Bfloat16>
                                                              : combine_as<float>;
  combine_typed(out, slot, weight, tokens, choices, hidden, y, runner);
}

}  // namespace vmoe
