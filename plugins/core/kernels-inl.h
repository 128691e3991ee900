// The kernels in portable SIMD; kernels.cc compiles this file once per instruction set.

#if defined(VMOE_CORE_KERNELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VMOE_CORE_KERNELS_INL_H_
#undef VMOE_CORE_KERNELS_INL_H_
#else
#define VMOE_CORE_KERNELS_INL_H_
#endif

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/kernels.h"
#include "hwy/cache_control.h"
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace vmoe {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using BitsTag = hn::RebindToUnsigned<FloatTag>;
using Floats = hn::Vec<FloatTag>;
using Bits = hn::Vec<BitsTag>;

constexpr size_t kLanes = HWY_LANES(float);
// Sums of a tile stay in registers: 24 of 32, or 12 of 16.
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
// How far ahead of its use a panel is asked for, in bytes: enough to hide a read from memory.
constexpr size_t kPrefetchBytes = 2048;
// What a core's second-level cache holds of panels, beside the rows.
constexpr size_t kCacheBytes = 768 << 10;

// ---- Rounding

HWY_INLINE Bits RoundedBf16(Bits bits) {
  const BitsTag du;
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fffu)));
  const auto quiet = hn::Or(bits, hn::Set(du, 0x400000u));
  const auto is_nan = hn::Gt(hn::And(bits, hn::Set(du, 0x7fffffffu)), hn::Set(du, 0x7f800000u));
  return hn::And(hn::IfThenElse(is_nan, quiet, rounded), hn::Set(du, 0xffff0000u));
}

HWY_INLINE Floats RoundBf16(Floats values) {
  return hn::BitCast(FloatTag(), RoundedBf16(hn::BitCast(BitsTag(), values)));
}

HWY_INLINE void StoreBf16(Floats values, Bf16* to) {
  const BitsTag du;
  const hn::Rebind<uint16_t, BitsTag> d16;
  hn::StoreU(hn::TruncateTo(d16, hn::ShiftRight<16>(RoundedBf16(hn::BitCast(du, values)))), d16, to);
}

HWY_ATTR inline void RoundRowToBf16(const float* from, size_t count, Bf16* to) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) StoreBf16(hn::LoadU(FloatTag(), from + i), to + i);
  for (; i < count; ++i) to[i] = ToBf16(from[i]);
}

HWY_ATTR inline void RoundRow(const float* from, size_t count, float* to) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) hn::StoreU(RoundBf16(hn::LoadU(FloatTag(), from + i)), FloatTag(), to + i);
  for (; i < count; ++i) to[i] = FromBf16(ToBf16(from[i]));
}

// ---- Epilogues

// 2^t for t from -126 to 127, within 2e-7 of it.
HWY_INLINE Floats Exp2(Floats t) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const auto whole = hn::Round(t);
  const auto part = hn::Sub(t, whole);  // -0.5 to 0.5
  // Nearly the best polynomial of its degree: the error is 2e-9.
  auto power = hn::Set(d, 0.00015469732f);
  power = hn::MulAdd(power, part, hn::Set(d, 0.0013400433f));
  power = hn::MulAdd(power, part, hn::Set(d, 0.0096180253f));
  power = hn::MulAdd(power, part, hn::Set(d, 0.055503272f));
  power = hn::MulAdd(power, part, hn::Set(d, 0.24022651f));
  power = hn::MulAdd(power, part, hn::Set(d, 0.69314718f));
  power = hn::MulAdd(power, part, hn::Set(d, 1.0f));
  const auto exponent = hn::ShiftLeft<23>(hn::ConvertTo(di, whole));
  return hn::BitCast(d, hn::Add(hn::BitCast(di, power), exponent));
}

// x * (1 + tanh(u)) / 2 with u = sqrt(2 / pi) * (x + 0.044715 x^3), written as x / (1 + exp(-2 u)): no cancellation.
HWY_INLINE Floats Gelu(Floats x) {
  const FloatTag d;
  // -2 u / ln 2; beyond the limits the quotient is x or 0 to float32's precision.
  const auto slope = hn::MulAdd(hn::Mul(x, x), hn::Set(d, -0.10294324f), hn::Set(d, -2.3022082f));
  const auto exponent = hn::Max(hn::Min(hn::Mul(x, slope), hn::Set(d, 126.0f)), hn::Set(d, -126.0f));
  return hn::Div(x, hn::Add(hn::Set(d, 1.0f), Exp2(exponent)));
}

// Finishes `rows` rows of sums in `tile` and stores them.
HWY_ATTR inline void StoreTile(const float* tile, size_t rows, size_t first_row, const PanelProduct& product) {
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
      if (epilogue.gelu) values = Gelu(values);
      if (epilogue.to_bf16) {
        Bf16* to = static_cast<Bf16*>(product.out) + offset + column;
        if (left >= kLanes) {
          StoreBf16(values, to);
        } else {
          Bf16 last[kLanes];
          StoreBf16(values, last);
          std::memcpy(to, last, left * sizeof(Bf16));
        }
        continue;
      }
      if (epilogue.round_bf16) values = RoundBf16(values);
      float* to = static_cast<float*>(product.out) + offset + column;
      if (left >= kLanes) {
        hn::StoreU(values, d, to);
      } else {
        hn::StoreN(values, d, to, left);
      }
    }
  }
}

// ---- Products

// One step of the depth for float32: a row of the panel.
struct Float32Step {
  using Element = float;
  static constexpr size_t kDepth = 1;

  template <size_t kRows, size_t kVectors>
  static HWY_INLINE void Add(const float* const (&rows)[kRows], size_t step, const float* panel,
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
};

// One step of the depth for bfloat16: two interleaved rows of the panel.
struct Bfloat16Step {
  using Element = Bf16;
  static constexpr size_t kDepth = 2;

  template <size_t kRows, size_t kVectors>
  static HWY_INLINE void Add(const Bf16* const (&rows)[kRows], size_t step, const Bf16* panel,
                             Floats (&sums)[kRows][kVectors]) {
    const FloatTag d;
    const BitsTag du;
    Bits weights[kVectors];
#pragma GCC unroll 16
    for (size_t v = 0; v < kVectors; ++v) {
      weights[v] = hn::Load(du, reinterpret_cast<const uint32_t*>(panel) + v * kLanes);
    }
#pragma GCC unroll 16
    for (size_t r = 0; r < kRows; ++r) {
      uint32_t pair;
      std::memcpy(&pair, rows[r] + 2 * step, sizeof(pair));
#if HWY_NATIVE_DOT_BF16
      const hn::Repartition<hwy::bfloat16_t, FloatTag> db;
      const auto values = hn::BitCast(db, hn::Set(du, pair));
      auto unused = hn::Zero(d);
#pragma GCC unroll 16
      for (size_t v = 0; v < kVectors; ++v) {
        sums[r][v] = hn::ReorderWidenMulAccumulate(d, values, hn::BitCast(db, weights[v]), sums[r][v], unused);
      }
#else
      const auto upper = hn::Set(du, 0xffff0000u);
      const auto first = hn::BitCast(d, hn::Set(du, pair << 16));
      const auto second = hn::BitCast(d, hn::Set(du, pair & 0xffff0000u));
#pragma GCC unroll 16
      for (size_t v = 0; v < kVectors; ++v) {
        sums[r][v] = hn::MulAdd(first, hn::BitCast(d, hn::ShiftLeft<16>(weights[v])), sums[r][v]);
        sums[r][v] = hn::MulAdd(second, hn::BitCast(d, hn::And(weights[v], upper)), sums[r][v]);
      }
#endif
    }
  }
};

// Memory to ask for before it is used: `stride` bytes further with each step of a product.
struct ReadAhead {
  const char* from;
  size_t stride;
};

// Where a tile's sums go: bias, f32 of the tile's columns or none, is added to each row.
struct TileTarget {
  float* out;
  size_t stride;
  const float* bias;
};

// Sums of kRows rows x kVectors vectors of columns.
template <class Step, size_t kRows, size_t kVectors>
HWY_ATTR HWY_NOINLINE void MultiplyTile(const PanelProduct& product, size_t first_row, ReadAhead ahead,
                                        TileTarget target) {
  using Element = typename Step::Element;
  const FloatTag d;
  const Element* rows[kRows];
  for (size_t r = 0; r < kRows; ++r) {
    const size_t row = first_row + r;
    const size_t place = product.index == nullptr ? row : static_cast<size_t>(product.index[row]);
    rows[r] = static_cast<const Element*>(product.rows) + place * product.row_stride;
  }
  Floats sums[kRows][kVectors];
#pragma GCC unroll 16
  for (size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (size_t v = 0; v < kVectors; ++v) sums[r][v] = hn::Zero(d);
  }
  constexpr size_t kStepElements = kVectors * kLanes * Step::kDepth;
  const auto* panel = static_cast<const Element*>(product.panel);
  const size_t steps = (product.depth + Step::kDepth - 1) / Step::kDepth;
  for (size_t step = 0; step < steps; ++step) {
#pragma GCC unroll 16
    for (size_t v = 0; v < kVectors; ++v) {
      hwy::Prefetch(reinterpret_cast<const char*>(panel + v * kLanes * Step::kDepth) + kPrefetchBytes);
    }
    __builtin_prefetch(ahead.from, 0, 2);  // into the second-level cache
    ahead.from += ahead.stride;
    Step::template Add<kRows, kVectors>(rows, step, panel, sums);
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

// Calls the MultiplyTile of a number of rows that is known only now.
template <class Step, size_t kVectors, size_t kRows = kTileRows>
HWY_INLINE void MultiplyRows(const PanelProduct& product, size_t first_row, size_t rows, ReadAhead ahead,
                             TileTarget target) {
  if (rows == kRows) {
    MultiplyTile<Step, kRows, kVectors>(product, first_row, ahead, target);
  } else if constexpr (kRows > 1) {
    MultiplyRows<Step, kVectors, kRows - 1>(product, first_row, rows, ahead, target);
  }
}

template <class Step, size_t kVectors = kTileVectors>
HWY_INLINE void MultiplyPanel(const PanelProduct& product) {
  if constexpr (kVectors > 1) {
    if (product.columns <= (kVectors - 1) * kLanes) return MultiplyPanel<Step, kVectors - 1>(product);
  }
  constexpr size_t kStepBytes = kVectors * kLanes * sizeof(float);
  const size_t steps = (product.depth + Step::kDepth - 1) / Step::kDepth;
  // The first tile brings the panel into the cache; the others have time to fetch the next one, as far as there is
  // room.
  ReadAhead ahead = {static_cast<const char*>(product.panel), 0};
  size_t next_bytes = 0;
  if (product.row_count > kTileRows && steps * kStepBytes < kCacheBytes) {
    next_bytes = std::min(product.next_panel_bytes, kCacheBytes - steps * kStepBytes);
  }
  const size_t later_steps = (product.row_count - 1) / kTileRows * steps;
  const Epilogue& epilogue = product.epilogue;
  const bool direct =
      !epilogue.gelu && !epilogue.to_bf16 && !epilogue.round_bf16 && product.columns == kVectors * kLanes;
  HWY_ALIGN float tile[kTileRows * kTileVectors * kLanes];
  for (size_t first_row = 0; first_row < product.row_count;) {
    const size_t left = product.row_count - first_row;
    // The last two tiles share what is left: 9 rows are 5 + 4, as 8 + 1 would read the panel once more for one row.
    const size_t rows = left >= 2 * kTileRows ? kTileRows : left > kTileRows ? (left + 1) / 2 : left;
    if (direct) {
      float* out = static_cast<float*>(product.out) + first_row * product.out_stride;
      MultiplyRows<Step, kVectors>(product, first_row, rows, ahead, {out, product.out_stride, epilogue.bias});
    } else {
      MultiplyRows<Step, kVectors>(product, first_row, rows, ahead, {tile, kTileVectors * kLanes, nullptr});
      StoreTile(tile, rows, first_row, product);
    }
    if (next_bytes > 0) {
      ahead.from = first_row == 0 ? static_cast<const char*>(product.next_panel) : ahead.from + ahead.stride * steps;
      ahead.stride = (next_bytes + later_steps - 1) / later_steps;
    }
    first_row += rows;
  }
}

HWY_ATTR inline void ProductFloat32(const PanelProduct& product) { MultiplyPanel<Float32Step>(product); }
HWY_ATTR inline void ProductBfloat16(const PanelProduct& product) { MultiplyPanel<Bfloat16Step>(product); }

// ---- Packing

// to[row * to_stride + column] = from[column * from_stride + row]
HWY_ATTR inline void Transpose(const float* from, size_t from_stride, size_t rows, size_t columns, float* to,
                               size_t to_stride) {
  size_t column = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::FixedTag<float, 4> d;
  for (; column + 4 <= columns; column += 4) {
    const float* first = from + column * from_stride;
    size_t row = 0;
    for (; row + 4 <= rows; row += 4) {
      const auto a = hn::LoadU(d, first + row);
      const auto b = hn::LoadU(d, first + from_stride + row);
      const auto c = hn::LoadU(d, first + 2 * from_stride + row);
      const auto e = hn::LoadU(d, first + 3 * from_stride + row);
      const auto low_ab = hn::InterleaveLower(d, a, b);
      const auto low_ce = hn::InterleaveLower(d, c, e);
      const auto high_ab = hn::InterleaveUpper(d, a, b);
      const auto high_ce = hn::InterleaveUpper(d, c, e);
      float* place = to + row * to_stride + column;
      hn::StoreU(hn::ConcatLowerLower(d, low_ce, low_ab), d, place);
      hn::StoreU(hn::ConcatUpperUpper(d, low_ce, low_ab), d, place + to_stride);
      hn::StoreU(hn::ConcatLowerLower(d, high_ce, high_ab), d, place + 2 * to_stride);
      hn::StoreU(hn::ConcatUpperUpper(d, high_ce, high_ab), d, place + 3 * to_stride);
    }
    for (; row < rows; ++row) {
      for (size_t i = 0; i < 4; ++i) to[row * to_stride + column + i] = first[i * from_stride + row];
    }
  }
#endif
  for (; column < columns; ++column) {
    for (size_t row = 0; row < rows; ++row) to[row * to_stride + column] = from[column * from_stride + row];
  }
}

// ---- Softmax

HWY_ATTR inline void Softmax(float* values, size_t count) {
  const FloatTag d;
  float largest = -std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < count; ++i) largest = std::max(largest, values[i]);
  float sum = 0;
  for (size_t i = 0; i < count; i += kLanes) {
    const size_t left = std::min(kLanes, count - i);
    const auto power = hn::Exp(d, hn::Sub(hn::LoadN(d, values + i, left), hn::Set(d, largest)));
    hn::StoreN(power, d, values + i, left);
    for (size_t j = 0; j < left; ++j) sum += values[i + j];
  }
  for (size_t i = 0; i < count; ++i) values[i] /= sum;
}

HWY_ATTR inline void AttentionSoftmax(float* scores, size_t count, float scale) {
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
    // A NaN stays one, although Max doesn't keep it.
    const auto power = hn::IfThenElse(hn::IsNaN(t), t, Exp2(hn::Max(t, hn::Set(d, -126.0f))));
    hn::Store(power, d, scores + i);
    sums = hn::Add(sums, power);
  }
  const auto unit = hn::Div(hn::Set(d, 1.0f), hn::SumOfLanes(d, sums));
  for (size_t i = 0; i < padded; i += kLanes) hn::Store(hn::Mul(hn::Load(d, scores + i), unit), d, scores + i);
}

constexpr Kernels kKernels = {
#if HWY_TARGET == HWY_AVX2
    CpuPath::kAvx2,
#elif HWY_TARGET == HWY_AVX3
    CpuPath::kAvx512,
#elif HWY_TARGET == HWY_AVX3_ZEN4
    CpuPath::kAvx512Bf16,
#elif HWY_TARGET == HWY_NEON || HWY_TARGET == HWY_NEON_WITHOUT_AES
    CpuPath::kNeon,
#else
    CpuPath::kScalar,
#endif
    kLanes,         kTileVectors * kLanes, kTileRows,      ProductFloat32, ProductBfloat16, Transpose,
    Softmax,        AttentionSoftmax,      RoundRowToBf16, RoundRow,
};

}  // namespace HWY_NAMESPACE
}  // namespace vmoe
HWY_AFTER_NAMESPACE();

#endif  // VMOE_CORE_KERNELS_INL_H_
