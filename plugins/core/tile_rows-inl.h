// Rows of float32 into tiles; tile_kernels.cc compiles this file once per instruction set.

#if defined(VMOE_CORE_TILE_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VMOE_CORE_TILE_ROWS_INL_H_
#undef VMOE_CORE_TILE_ROWS_INL_H_
#else
#define VMOE_CORE_TILE_ROWS_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/tile_kernels.h"
#include "core/tile_product-inl.h"
#include "core/vector_math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace vmoe {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr float kNormEpsilon = 1e-6f;

// The values at `i` to `count` of a row, zeros behind.
HWY_INLINE Floats LoadUpTo(const float* row, size_t i, size_t count) {
  const FloatTag d;
  return i + kLanes <= count ? hn::LoadU(d, row + i) : hn::LoadN(d, row + i, count - i);
}

HWY_ATTR inline void NormalizeRow(const float* row, const float* scale, const float* bias, size_t count, float* out) {
  const FloatTag d;
  auto sums = hn::Zero(d);
  for (size_t i = 0; i < count; i += kLanes) sums = hn::Add(sums, LoadUpTo(row, i, count));
  const float mean = hn::ReduceSum(d, sums) / static_cast<float>(count);
  const auto means = hn::Set(d, mean);
  auto squares = hn::Zero(d);
  for (size_t i = 0; i < count; i += kLanes) {
    auto away = hn::Sub(LoadUpTo(row, i, count), means);
    if (i + kLanes > count) away = hn::IfThenElseZero(hn::FirstN(d, count - i), away);
    squares = hn::MulAdd(away, away, squares);
  }
  const float variance = hn::ReduceSum(d, squares) / static_cast<float>(count);
  const auto unit = hn::Set(d, 1.0f / std::sqrt(variance + kNormEpsilon));
  for (size_t i = 0; i < count; i += kLanes) {
    const auto normal = hn::Mul(hn::Sub(LoadUpTo(row, i, count), means), unit);
    const auto value = hn::MulAdd(normal, LoadUpTo(scale, i, count), LoadUpTo(bias, i, count));
    i + kLanes <= count ? hn::StoreU(value, d, out + i) : hn::StoreN(value, d, out + i, count - i);
  }
}

// One row as bfloat16 lines, `count` a multiple of 32.
HWY_INLINE void RowToBf16Lines(const float* row, size_t count, char* line) {
  for (size_t i = 0; i < count; i += kPanelColumns, line += kTileBytes) {
    Floats values[kPanelColumns / kLanes];
#pragma GCC unroll 16
    for (size_t v = 0; v < kPanelColumns / kLanes; ++v) values[v] = hn::LoadU(FloatTag(), row + i + v * kLanes);
    StoreBf16Line(values, line);
  }
}

// One row as int8 lines, `count` a multiple of 64: clip(rint(x / scale), -127, 127). Returns its scale.
template <bool kUnsigned>
HWY_INLINE float RowToInt8Lines(const float* row, size_t count, char* line) {
  const FloatTag d;
  const SignedTag di;
  constexpr size_t kVectors = kLineBytes / kLanes;
  auto largest = hn::Zero(d);
  for (size_t i = 0; i < count; i += kLanes) largest = hn::Max(largest, hn::Abs(hn::LoadU(d, row + i)));
  const float most = hn::ReduceMax(d, largest);
  const float scale = most == 0.0f ? 1.0f : most / 127.0f;
  const auto reciprocal = hn::Set(d, 1.0f / scale);
  for (size_t i = 0; i < count; i += kLineBytes, line += kTileBytes) {
    // No quotient is beyond 127.5, so nothing is left to clip. A product with the reciprocal is off by a few units in
    // the last place: close to the middle of two integers it could go the other way, and the division is done.
    Floats rounded[kVectors];
    auto away = hn::Zero(d);
#pragma GCC unroll 16
    for (size_t v = 0; v < kVectors; ++v) {
      const auto quotient = hn::Mul(hn::LoadU(d, row + i + v * kLanes), reciprocal);
      rounded[v] = hn::Round(quotient);
      away = hn::Max(away, hn::Abs(hn::Sub(quotient, rounded[v])));
    }
    if (HWY_UNLIKELY(!hn::AllFalse(d, hn::Gt(away, hn::Set(d, 0.4999f))))) {
      for (size_t v = 0; v < kVectors; ++v) {
        rounded[v] = hn::Round(hn::Div(hn::LoadU(d, row + i + v * kLanes), hn::Set(d, scale)));
      }
    }
#pragma GCC unroll 16
    for (size_t v = 0; v < kVectors; ++v) {
      const auto whole = hn::ConvertTo(di, rounded[v]);
      if constexpr (kUnsigned) {
        const hn::Rebind<uint8_t, SignedTag> du8;
        hn::StoreU(hn::DemoteTo(du8, hn::Add(whole, hn::Set(di, 128))), du8, reinterpret_cast<uint8_t*>(line) + v * kLanes);
      } else {
        const hn::Rebind<int8_t, SignedTag> d8;
        hn::StoreU(hn::DemoteTo(d8, whole), d8, reinterpret_cast<int8_t*>(line) + v * kLanes);
      }
    }
  }
  return scale;
}

template <class Block>
HWY_ATTR void PackRows(const TileRows& rows) {
  const size_t padded = Steps(rows.type, rows.depth) * DepthOfLine(rows.type);
  const bool in_place = padded == rows.depth && rows.norm_scale == nullptr && !rows.round_bf16;
  if (!in_place) std::fill(rows.scratch + rows.depth, rows.scratch + padded, 0.0f);
  for (size_t r = 0; r < rows.row_count; ++r) {
    const size_t place = rows.index == nullptr ? r : static_cast<size_t>(rows.index[r]);
    const float* row = rows.rows + place * rows.stride;
    if (!in_place) {
      if (rows.norm_scale != nullptr) {
        NormalizeRow(row, rows.norm_scale, rows.norm_bias, rows.depth, rows.scratch);
      } else {
        std::memcpy(rows.scratch, row, rows.depth * sizeof(float));
      }
      row = rows.scratch;
    }
    if (rows.round_bf16) {
      for (size_t i = 0; i < padded; i += kLanes) {
        hn::StoreU(RoundBf16(hn::LoadU(FloatTag(), row + i)), FloatTag(), rows.scratch + i);
      }
    }
    char* line = rows.tiles + LineOffset(r, rows.row_tile_stride);
    if (rows.type == ElementType::kInt8) {
      rows.scale[r] = RowToInt8Lines<Block::kUnsignedRows>(row, padded, line);
    } else {
      RowToBf16Lines(row, padded, line);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace vmoe
HWY_AFTER_NAMESPACE();

#endif  // VMOE_CORE_TILE_ROWS_INL_H_
