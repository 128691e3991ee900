// Matrix products in float32, and softmax, in portable SIMD. kernels.cc compiles this file once per instruction set.
// The table in kernels.cc compares the speed of these products with products of other types.
//
// Constants of products:
// - kTileRows and kTileVectors are chosen so that the sums take 24 of 32 registers, or 12 of 16. A prototype with 8
//   rows x 48 columns reached 77 to 91 % of the peak of Zen 5; other shapes were not measured.
// - kPrefetchBytes and kCacheBytes are from commits 773af896 and 03732671, which record no measurement.

#if defined(VMOE_CORE_KERNELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VMOE_CORE_KERNELS_INL_H_
#undef VMOE_CORE_KERNELS_INL_H_
#else
#define VMOE_CORE_KERNELS_INL_H_
#endif

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/bfloat16.h"
#include "core/kernels.h"
#include "core/vector_math-inl.h"
#include "hwy/cache_control.h"
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace vmoe {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The numbers of rows and column vectors in a tile. A tile's sums stay in registers.
#if HWY_TARGET == HWY_AVX2
constexpr size_t kTileRows = 6;
constexpr size_t kTileVectors = 2;
#elif HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
constexpr size_t kTileRows = 4;
constexpr size_t kTileVectors = HWY_TARGET == HWY_SCALAR ? 8 : 2;
#else
constexpr size_t kTileRows = 8;
constexpr size_t kTileVectors = 3;
#endif
// How many bytes ahead a panel is prefetched. The distance is large enough to hide memory latency.
constexpr size_t kPrefetchBytes = 2048;
// How many bytes of panels fit into a core's second-level cache in addition to the rows.
constexpr size_t kCacheBytes = 768 << 10;

// ---- Rounding

HWY_ATTR inline void round_row(const float* from, size_t count, float* to) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    hn::StoreU(round_to_bf16(hn::LoadU(FloatTag(), from + i)), FloatTag(), to + i);
  for (; i < count; ++i) to[i] = from_bf16(to_bf16(from[i]));
}

// ---- Epilogues

// Applies the epilogue to the sums in the first `rows` rows of `tile`, and stores the results in the output.
template <bool kMultiplies>
HWY_ATTR inline void store_tile(const float* tile, size_t rows, size_t first_row, const PanelProduct& product) {
  const FloatTag d;
  const Epilogue& epilogue = product.epilogue;
  constexpr size_t kStride = kTileVectors * kLanes;
  for (size_t row = 0; row < rows; ++row) {
    const size_t offset = (first_row + row) * product.out_stride;
    for (size_t column = 0; column < product.columns; column += kLanes) {
      const size_t left = product.columns - column;
      auto values = hn::Load(d, tile + row * kStride + column);
      if (epilogue.bias != nullptr) {
        const float* bias = epilogue.bias + column;
        values = hn::Add(values, left >= kLanes ? hn::LoadU(d, bias) : hn::LoadN(d, bias, left));
      }
      if (epilogue.activation != Activation::kNone) values = activate(epilogue.activation, values);
      if constexpr (kMultiplies) {
        const float* factor = epilogue.factor + offset + column;
        values = hn::Mul(values, left >= kLanes ? hn::LoadU(d, factor) : hn::LoadN(d, factor, left));
      }
      if (epilogue.round_bf16) values = round_to_bf16(values);
      float* to = product.out + offset + column;
      if (left >= kLanes) {
        hn::StoreU(values, d, to);
      } else {
        hn::StoreN(values, d, to, left);
      }
    }
  }
}

// ---- Products

// Adds the products of one step to the sums. A step is one position along the depth, which is the dimension that is
// summed over. It corresponds to one row of the panel.
template <size_t kRows, size_t kVectors>
HWY_INLINE void add_step(const float* const (&rows)[kRows], size_t step, const float* panel,
                         Floats (&sums)[kRows][kVectors]) {
  const FloatTag d;
  Floats weights[kVectors];
#pragma GCC unroll 16
  for (size_t v = 0; v < kVectors; ++v) weights[v] = hn::Load(d, panel + v * kLanes);
#pragma GCC unroll 16
  for (size_t r = 0; r < kRows; ++r) {
    const auto value = hn::Set(d, rows[r][step]);
#pragma GCC unroll 16
    for (size_t v = 0; v < kVectors; ++v) sums[r][v] = hn::MulAdd(value, weights[v], sums[r][v]);
  }
}

// The address to prefetch. Each step of a product advances the address by `stride` bytes.
struct ReadAhead {
  const char* from;
  size_t stride;
};

// Where to store a tile's sums. If `bias` is not null, it contains one float32 for each column of the tile. This value
// is added to the column's sums.
struct TileTarget {
  float* out;
  size_t stride;
  const float* bias;
};

// Multiplies kRows rows by kVectors vectors of columns, and stores the sums in `target`.
template <size_t kRows, size_t kVectors>
HWY_ATTR HWY_NOINLINE void multiply_tile(const PanelProduct& product, size_t first_row, ReadAhead ahead,
                                         TileTarget target) {
  const FloatTag d;
  const float* rows[kRows];
  for (size_t r = 0; r < kRows; ++r) {
    const size_t row = first_row + r;
    const size_t place = product.index == nullptr ? row : static_cast<size_t>(product.index[row]);
    rows[r] = product.rows + place * product.row_stride;
  }
  Floats sums[kRows][kVectors];
#pragma GCC unroll 16
  for (size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (size_t v = 0; v < kVectors; ++v) sums[r][v] = hn::Zero(d);
  }
  constexpr size_t kStepElements = kVectors * kLanes;
  const float* panel = product.panel;
  const size_t steps = product.depth;
  for (size_t step = 0; step < steps; ++step) {
#pragma GCC unroll 16
    for (size_t v = 0; v < kVectors; ++v) {
      hwy::Prefetch(reinterpret_cast<const char*>(panel + v * kLanes) + kPrefetchBytes);
    }
    __builtin_prefetch(ahead.from, 0, 2);  // into the second-level cache
    ahead.from += ahead.stride;
    add_step(rows, step, panel, sums);
    panel += kStepElements;
  }
  if (target.bias != nullptr) {
#pragma GCC unroll 16
    for (size_t v = 0; v < kVectors; ++v) {
      const auto bias = hn::LoadU(d, target.bias + v * kLanes);
#pragma GCC unroll 16
      for (size_t r = 0; r < kRows; ++r) sums[r][v] = hn::Add(sums[r][v], bias);
    }
  }
#pragma GCC unroll 16
  for (size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (size_t v = 0; v < kVectors; ++v) hn::StoreU(sums[r][v], d, target.out + r * target.stride + v * kLanes);
  }
}

// Calls multiply_tile with kRows equal to `rows`, which is known only at run time.
template <size_t kVectors, size_t kRows = kTileRows>
HWY_INLINE void multiply_rows(const PanelProduct& product, size_t first_row, size_t rows, ReadAhead ahead,
                              TileTarget target) {
  if (rows == kRows) {
    multiply_tile<kRows, kVectors>(product, first_row, ahead, target);
  } else if constexpr (kRows > 1) {
    multiply_rows<kVectors, kRows - 1>(product, first_row, rows, ahead, target);
  }
}

template <size_t kVectors = kTileVectors>
HWY_INLINE void multiply_panel(const PanelProduct& product) {
  if constexpr (kVectors > 1) {
    if (product.columns <= (kVectors - 1) * kLanes) return multiply_panel<kVectors - 1>(product);
  }
  constexpr size_t kStepBytes = kVectors * kLanes * sizeof(float);
  const size_t steps = product.depth;
  // While the first tile is multiplied, the panel itself enters the cache. The later tiles prefetch as much of the next
  // panel as still fits into the cache.
  ReadAhead ahead = {reinterpret_cast<const char*>(product.panel), 0};
  size_t next_bytes = 0;
  if (product.row_count > kTileRows && steps * kStepBytes < kCacheBytes) {
    next_bytes = std::min(product.next_panel_bytes, kCacheBytes - steps * kStepBytes);
  }
  const size_t later_steps = (product.row_count - 1) / kTileRows * steps;
  const Epilogue& epilogue = product.epilogue;
  const bool direct =
      epilogue.activation == Activation::kNone && !epilogue.round_bf16 && product.columns == kVectors * kLanes;
  HWY_ALIGN float tile[kTileRows * kTileVectors * kLanes];
  for (size_t first_row = 0; first_row < product.row_count;) {
    const size_t left = product.row_count - first_row;
    // The last two tiles share the remaining rows, so that no tile reads the whole panel for a single row. For example,
    // with tiles of 8 rows, 9 rows become 5 + 4.
    const size_t rows = left >= 2 * kTileRows ? kTileRows : left > kTileRows ? (left + 1) / 2 : left;
    if (direct) {
      float* out = product.out + first_row * product.out_stride;
      multiply_rows<kVectors>(product, first_row, rows, ahead, {out, product.out_stride, epilogue.bias});
    } else {
      multiply_rows<kVectors>(product, first_row, rows, ahead, {tile, kTileVectors * kLanes, nullptr});
      epilogue.factor == nullptr ? store_tile<false>(tile, rows, first_row, product)
                                 : store_tile<true>(tile, rows, first_row, product);
    }
    if (next_bytes > 0) {
      ahead.from = first_row == 0 ? static_cast<const char*>(product.next_panel) : ahead.from + ahead.stride * steps;
      ahead.stride = (next_bytes + later_steps - 1) / later_steps;
    }
    first_row += rows;
  }
}

HWY_ATTR inline void product_float32(const PanelProduct& product) { multiply_panel<>(product); }

// ---- Softmax

// Slightly above ln 2^-126: below that, exp(t) is subnormal.
constexpr float kLowestExponent = -87.336f;

template <bool kSubnormals>
HWY_ATTR inline void softmax(float* values, size_t count) {
  const FloatTag d;
  float largest = -std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < count; ++i) largest = std::max(largest, values[i]);
  float sum = 0;
  for (size_t i = 0; i < count; i += kLanes) {
    const size_t left = std::min(kLanes, count - i);
    const auto t = hn::Sub(hn::LoadN(d, values + i, left), hn::Set(d, largest));
    const auto lowest = hn::Set(d, kLowestExponent);
    auto power = hn::Exp(d, kSubnormals ? t : maximum(t, lowest));
    if (!kSubnormals) power = hn::IfThenZeroElse(hn::Lt(t, lowest), power);
    // hn::Max and hn::Exp may turn a NaN into a number, so NaNs are restored here.
    hn::StoreN(hn::IfThenElse(hn::IsNaN(t), t, power), d, values + i, left);
    for (size_t j = 0; j < left; ++j) sum += values[i + j];
  }
  // The smallest power whose quotient is normal.
  const float smallest = kSubnormals ? 0 : sum * std::numeric_limits<float>::min();
  for (size_t i = 0; i < count; ++i) values[i] = (values[i] < smallest ? 0 : values[i]) / sum;
}

HWY_ATTR inline void attention_softmax(float* scores, size_t count, float scale) {
  const FloatTag d;
  const size_t padded = (count + kLanes - 1) / kLanes * kLanes;
  for (size_t i = count; i < padded; ++i) scores[i] = std::numeric_limits<float>::lowest();
  auto largest = hn::Load(d, scores);
  for (size_t i = kLanes; i < padded; i += kLanes) largest = hn::Max(largest, hn::Load(d, scores + i));
  largest = hn::MaxOfLanes(d, largest);
  const auto slope = hn::Set(d, scale * 1.4426950408889634f);
  auto sums = hn::Zero(d);
  for (size_t i = 0; i < padded; i += kLanes) {
    const auto t = hn::Mul(hn::Sub(hn::Load(d, scores + i), largest), slope);
    const auto power = exp2_of_score(t);
    hn::Store(power, d, scores + i);
    sums = hn::Add(sums, power);
  }
  const auto unit = hn::Div(hn::Set(d, 1.0f), hn::SumOfLanes(d, sums));
  for (size_t i = 0; i < padded; i += kLanes) hn::Store(hn::Mul(hn::Load(d, scores + i), unit), d, scores + i);
}

}  // namespace HWY_NAMESPACE
}  // namespace vmoe
HWY_AFTER_NAMESPACE();

#endif  // VMOE_CORE_KERNELS_INL_H_
