// Multiplies blocks with ARM's dot products (SDOT) and products of small matrices (SMMLA, BFMMLA), which Highway does
// not support. kernels.cc compiles this file once per instruction set.
//
// These paths were not measured, because no ARM processor was available. The table lists upper bounds instead of
// measurements: the multiply-adds per cycle that llvm-mca 19 computes for prototypes of the innermost loops. The first
// row is for the code of commit 3a691498.
//
// | | Neoverse N1 | Neoverse V1 |
// |---|---|---|
// | bfloat16 and int8 in Highway's vectors, before this file | 6.23 and 2.92 | 12.39 and 6.1 |
// | SDOT, 4 rows x 16 columns (Dots) | 31.95 | 63.8 |
// | SMMLA, 8 x 8, rows packed in pairs (SmallMatrices) | - | 127 |
// | BFMMLA, 8 x 8 | - | 50.9 |
// | BFMMLA, 12 rows x 8 columns (SmallMatrices) | - | 63.3 |
//
// kInt8Units and kBf16Units follow from these numbers. BFMMLA has a latency of 5 cycles on V1. A block of 8 x 8 has 16
// sums, which are too few to hide the latency. A block of 12 x 8 has 24 sums, which are enough. kStepsAtOnce was not
// measured. It is small enough for the operands of a block to stay in the first-level cache.

#if defined(VMOE_CORE_NEON_BLOCK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VMOE_CORE_NEON_BLOCK_INL_H_
#undef VMOE_CORE_NEON_BLOCK_INL_H_
#else
#define VMOE_CORE_NEON_BLOCK_INL_H_
#endif

#include "core/vector_block-inl.h"

#if HWY_TARGET == HWY_NEON_WITHOUT_AES
#include <arm_neon.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

HWY_BEFORE_NAMESPACE();
namespace vmoe {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Lets a function use SDOT, SMMLA and BFMMLA. Compilers emit these instructions only for their intrinsics. A path that
// calls only SDOT therefore also runs on processors without SMMLA and BFMMLA.
#define VMOE_PRODUCTS_ATTR __attribute__((target("+dotprod+i8mm+bf16")))

constexpr size_t kVectorBytes = 16;
constexpr size_t kVectorColumns = 4;  // float32 or int32
constexpr size_t kVectorsOfUnit = 4;

HWY_INLINE int8x16_t load_bytes(const char* from) { return vld1q_s8(reinterpret_cast<const int8_t*>(from)); }
HWY_INLINE void store_bytes(char* to, int8x16_t bytes) { vst1q_s8(reinterpret_cast<int8_t*>(to), bytes); }

// Unpacks bytes that contain two int4 weights each. If kSecond is set, returns the second weight of each byte.
// Otherwise, returns the first weight of each byte.
template <bool kSecond>
HWY_INLINE int8x16_t unpack_int4(int8x16_t both) {
  if constexpr (kSecond) return vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(both), 4));
  return vandq_s8(both, vdupq_n_s8(0xf));
}

// ---- Products that are built from a single instruction

// Multiplies rows by 16 columns. Each instruction multiplies 4 bytes of a row by 4 bytes of each of 4 columns.
template <class Instruction>
struct Dots {
  using Sums = typename Instruction::Sums;
  static constexpr size_t kGroupBytes = 4;
  static constexpr size_t kRowsOfUnit = 1;
  static constexpr size_t kUnitBytes = kLineBytes;  // bytes from one row to the next

  static HWY_INLINE Sums start(const int32_t* excess) { return (Sums)vld1q_dup_s32(excess); }
  template <size_t kUnits>
  static HWY_INLINE void swap(Sums (&)[kUnits][kVectorsOfUnit]) {}

  template <ElementType kType, size_t kUnits>
  VMOE_PRODUCTS_ATTR static HWY_INLINE void add_step(const char* rows, size_t, const char* panel,
                                                     Sums (&sums)[kUnits][kVectorsOfUnit]) {
    constexpr size_t kFourLines = kLineBytes * (kType == ElementType::kInt4 ? 2 : 4);
#pragma GCC unroll 1
    for (size_t i = 0; i < kLineBytes; i += kVectorBytes, panel += kFourLines) {
      int8x16_t values[kUnits];
#pragma GCC unroll 8
      for (size_t r = 0; r < kUnits; ++r) values[r] = load_bytes(rows + r * kUnitBytes + i);
      add_line<kType, 0>(values, panel, sums);
      add_line<kType, 1>(values, panel, sums);
      add_line<kType, 2>(values, panel, sums);
      add_line<kType, 3>(values, panel, sums);
    }
  }

 private:
  template <ElementType kType, int kLine, size_t kUnits>
  VMOE_PRODUCTS_ATTR static HWY_INLINE void add_line(const int8x16_t (&values)[kUnits], const char* panel,
                                                     Sums (&sums)[kUnits][kVectorsOfUnit]) {
    constexpr bool kInt4 = kType == ElementType::kInt4;
#pragma GCC unroll 8
    for (size_t v = 0; v < kVectorsOfUnit; ++v) {
      auto weights = load_bytes(panel + (kInt4 ? kLine / 2 : kLine) * kLineBytes + v * kVectorBytes);
      if constexpr (kInt4) weights = unpack_int4<kLine % 2 == 1>(weights);
#pragma GCC unroll 8
      for (size_t r = 0; r < kUnits; ++r) {
        sums[r][v] = Instruction::template add<kLine>(sums[r][v], values[r], weights);
      }
    }
  }
};

// Multiplies pairs of rows by 8 columns. Each instruction multiplies 8 bytes of 2 rows by 8 bytes of 2 columns, and
// adds the results to a vector of 2 x 2 sums. Rows and weights have the layout [8 groups of 8 bytes][rows, or 16
// columns][8 B], so that every 16 bytes are an operand of an instruction.
template <class Instruction>
struct SmallMatrices {
  using Sums = typename Instruction::Sums;
  static constexpr size_t kGroupBytes = 8;
  static constexpr size_t kRowsOfUnit = 2;
  static constexpr size_t kUnitBytes = kVectorBytes;

  static HWY_INLINE Sums start(const int32_t* excess) {
    const int32x2_t pair = vld1_s32(excess);
    return vcombine_s32(vdup_lane_s32(pair, 0), vdup_lane_s32(pair, 1));
  }

  // Rearranges two vectors of 2 x 2 sums into one vector of 4 sums for each of the two rows. Calling it again reverses
  // this.
  template <size_t kUnits>
  static HWY_INLINE void swap(Sums (&sums)[kUnits][kVectorsOfUnit]) {
#pragma GCC unroll 8
    for (auto& unit : sums) {
#pragma GCC unroll 8
      for (size_t v = 0; v < kVectorsOfUnit; v += 2) {
        const auto one = (int64x2_t)unit[v], other = (int64x2_t)unit[v + 1];
        unit[v] = (Sums)vzip1q_s64(one, other);
        unit[v + 1] = (Sums)vzip2q_s64(one, other);
      }
    }
  }

  template <ElementType kType, size_t kUnits>
  VMOE_PRODUCTS_ATTR static HWY_INLINE void add_step(const char* rows, size_t group_stride, const char* panel,
                                                     Sums (&sums)[kUnits][kVectorsOfUnit]) {
    constexpr bool kInt4 = kType == ElementType::kInt4;
#pragma GCC unroll 1
    for (size_t group = 0; group < kLineBytes / kGroupBytes; group += 2) {
      add_group<kInt4, false>(rows, panel, sums);
      rows += group_stride;
      if constexpr (!kInt4) panel += kRowsPerTile * kGroupBytes;
      add_group<kInt4, true>(rows, panel, sums);
      rows += group_stride;
      panel += kRowsPerTile * kGroupBytes;
    }
  }

 private:
  template <bool kInt4, bool kSecond, size_t kUnits>
  VMOE_PRODUCTS_ATTR static HWY_INLINE void add_group(const char* rows, const char* panel,
                                                      Sums (&sums)[kUnits][kVectorsOfUnit]) {
    int8x16_t values[kUnits];
#pragma GCC unroll 8
    for (size_t u = 0; u < kUnits; ++u) values[u] = load_bytes(rows + u * kUnitBytes);
#pragma GCC unroll 8
    for (size_t v = 0; v < kVectorsOfUnit; ++v) {
      auto weights = load_bytes(panel + v * kVectorBytes);
      if constexpr (kInt4) weights = unpack_int4<kSecond>(weights);
#pragma GCC unroll 8
      for (size_t u = 0; u < kUnits; ++u) sums[u][v] = Instruction::add(sums[u][v], values[u], weights);
    }
  }
};

// SDOT, for int8.
struct SignedDot {
  using Sums = int32x4_t;
  template <int kLane>
  VMOE_PRODUCTS_ATTR static HWY_INLINE Sums add(Sums sums, int8x16_t row, int8x16_t columns) {
    return vdotq_laneq_s32(sums, columns, row, kLane);
  }
};

// Multiplies bfloat16 values that were widened to float32.
struct FloatProduct {
  using Sums = float32x4_t;
  template <int kLane>
  static HWY_INLINE Sums add(Sums sums, int8x16_t row, int8x16_t columns) {
    return vfmaq_laneq_f32(sums, (float32x4_t)columns, (float32x4_t)row, kLane);
  }
};

struct SignedMatrix {
  using Sums = int32x4_t;
  VMOE_PRODUCTS_ATTR static HWY_INLINE Sums add(Sums sums, int8x16_t rows, int8x16_t columns) {
    return vmmlaq_s32(sums, rows, columns);
  }
};

struct Bf16Matrix {
  using Sums = float32x4_t;
  VMOE_PRODUCTS_ATTR static HWY_INLINE Sums add(Sums sums, int8x16_t rows, int8x16_t columns) {
    return vbfmmlaq_f32(sums, (bfloat16x8_t)rows, (bfloat16x8_t)columns);
  }
};

// Computes BFMMLA in plain C++, bit for bit, for machines without the instruction. The sum of two products is rounded
// to odd. Then the sum of this result and the accumulator is rounded to odd. Subnormal inputs and outputs become zero.
struct EmulatedBf16Matrix {
  using Sums = float32x4_t;
  static Sums add(Sums sums, int8x16_t rows, int8x16_t columns) {
    Bf16 row[8], column[8];
    float total[4];
    std::memcpy(row, &rows, sizeof(row));
    std::memcpy(column, &columns, sizeof(column));
    std::memcpy(total, &sums, sizeof(total));
    for (size_t i = 0; i < 4; ++i) {
      const Bf16 *a = row + i / 2 * 4, *b = column + i % 2 * 4;
      for (size_t k = 0; k < 4; k += 2) {
        const float pair = add_to_odd(product(a[k], b[k]), product(a[k + 1], b[k + 1]));
        total[i] = add_to_odd(flushed(total[i]), pair);
      }
    }
    std::memcpy(&sums, total, sizeof(total));
    return sums;
  }

 private:
  static float flushed(float value) {
    return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0f, value) : value;
  }
  // Returns the product of two bfloat16. The product is exact within the range of float32.
  static float product(Bf16 a, Bf16 b) { return flushed(flushed(from_bf16(a)) * flushed(from_bf16(b))); }

  // Returns a + b rounded to odd: the sum is rounded towards zero, and its last bit is set if the result is not exact.
  // The sum is first rounded to odd as a double, which gives the same result as rounding directly to float32.
  static float add_to_odd(float a, float b) {
    double sum = double{a} + b;
    const double rest = sum - a;
    const double error = (a - (sum - rest)) + (b - rest);  // exact, because the rounding error fits into a double
    uint64_t bits;
    std::memcpy(&bits, &sum, sizeof(bits));
    if (std::isfinite(sum) && error != 0 && bits % 2 == 0) (error > 0) == (sum > 0) ? ++bits : --bits;
    constexpr uint64_t kLast = uint64_t{1} << 29;  // of a float
    if (bits % kLast != 0) bits = (bits - bits % kLast) | kLast;
    std::memcpy(&sum, &bits, sizeof(bits));
    const auto rounded = static_cast<float>(sum);
    return std::fabs(sum) < std::numeric_limits<float>::min() ? std::copysign(0.0f, rounded) : rounded;
  }
};

// ---- Passes over a panel

struct NeonPass {
  const char* rows;             // the first row of the pass
  size_t group_stride;          // only for SmallMatrices: bytes from one group of the rows to the next
  size_t step_stride;           // bytes from one step of the rows to the next
  const int32_t* excess;        // only for int4: the first row's sum, times -8 (see tiles.h)
  const char* panel;            // the weights, from the first column of the pass on
  const hwy::float16_t* scale;  // int4: of its columns
  size_t steps;
  bool goes_on;  // whether to add to the sums that `out` already contains
  float* out;    // [rows, kPanelColumns]; for int8 weights, the values are int32
};

// Multiplies kUnits units of rows by four vectors of columns. A unit is Products::kRowsOfUnit rows.
template <class Products, ElementType kType, size_t kUnits>
VMOE_PRODUCTS_ATTR HWY_NOINLINE void run_neon_pass(NeonPass pass, LinesAhead& lines) {
  constexpr bool kInt4 = kType == ElementType::kInt4;
  constexpr size_t kRows = Products::kRowsOfUnit;
  using Sums = typename Products::Sums;
  const auto place = [&pass](size_t unit, size_t v) HWY_ATTR {
    return pass.out + (unit * kRows + v % kRows) * kPanelColumns + v / kRows * kVectorColumns;
  };
  LinesAhead ahead = lines;
  Sums sums[kUnits][kVectorsOfUnit];
#pragma GCC unroll 8
  for (size_t u = 0; u < kUnits; ++u) {
#pragma GCC unroll 8
    for (size_t v = 0; v < kVectorsOfUnit; ++v) {
      sums[u][v] = pass.goes_on ? (Sums)vld1q_f32(place(u, v)) : Sums{};
      if constexpr (kInt4) vst1q_f32(place(u, v), vdupq_n_f32(0));
    }
  }
  Products::swap(sums);
  for (size_t k = 0; k < pass.steps; ++k) {
    if constexpr (kInt4) {
#pragma GCC unroll 8
      for (size_t u = 0; u < kUnits; ++u) {
        const Sums first = Products::start(pass.excess + u * kRows);
#pragma GCC unroll 8
        for (auto& vector : sums[u]) vector = first;
      }
    }
    Products::template add_step<kType>(pass.rows, pass.group_stride, pass.panel, sums);
    if constexpr (kInt4) {
      Products::swap(sums);
#pragma GCC unroll 8
      for (size_t v = 0; v < kVectorsOfUnit; ++v) {
        const auto scale = hn::PromoteTo(FloatTag(), hn::LoadU(hn::Rebind<hwy::float16_t, FloatTag>(),
                                                               pass.scale + v / kRows * kVectorColumns))
                               .raw;
#pragma GCC unroll 8
        for (size_t u = 0; u < kUnits; ++u) {
          float* total = place(u, v);
          vst1q_f32(total, vaddq_f32(vld1q_f32(total), vmulq_f32(vcvtq_f32_s32(sums[u][v]), scale)));
        }
      }
      pass.excess += weight_type(kType).tile_step_bytes / sizeof(int32_t);
      pass.scale += weight_type(kType).panel_step_bytes / sizeof(hwy::float16_t);
    }
    pass.rows += pass.step_stride;
    pass.panel += weight_type(kType).panel_step_bytes;
    ahead.step();
  }
  lines = ahead;
  if constexpr (!kInt4) {
    Products::swap(sums);
#pragma GCC unroll 8
    for (size_t u = 0; u < kUnits; ++u) {
#pragma GCC unroll 8
      for (size_t v = 0; v < kVectorsOfUnit; ++v) vst1q_f32(place(u, v), (float32x4_t)sums[u][v]);
    }
  }
}

template <class Products, ElementType kType, size_t... kUnits>
constexpr auto neon_passes(std::index_sequence<kUnits...>) {
  return std::array{run_neon_pass<Products, kType, kUnits + 1>...};
}

// Multiplies rows in consecutive units by some columns of a panel, in passes of at most kMostUnits units.
template <class Products, ElementType kType, size_t kMostUnits>
HWY_INLINE void run_neon_passes(const NeonPass& rows, size_t row_count, size_t columns, LinesAhead& lines) {
  static constexpr auto kPasses = neon_passes<Products, kType>(std::make_index_sequence<kMostUnits>());
  constexpr size_t kColumns = kVectorsOfUnit * kVectorColumns / Products::kRowsOfUnit;
  constexpr size_t kHalf = kTileBytes / (kType == ElementType::kInt4 ? 2 : 1);
  LinesAhead none;
  size_t count = 0;
  for (size_t left = divide_up(row_count, Products::kRowsOfUnit), unit = 0; left > 0; left -= count, unit += count) {
    count = divide_up(left, divide_up(left, kMostUnits));
    for (size_t column = 0; column < columns; column += kColumns) {
      NeonPass pass = rows;
      pass.rows += unit * Products::kUnitBytes;
      pass.excess += unit * Products::kRowsOfUnit;
      pass.panel += column / kRowsPerTile * kHalf + column % kRowsPerTile * Products::kGroupBytes;
      pass.scale += column;
      pass.out += unit * Products::kRowsOfUnit * kPanelColumns + column;
      kPasses[count - 1](pass, column == 0 ? lines : none);
    }
  }
}

// ---- Blocks

// Multiplies row tiles by one panel. If Int8 is PortableInt8, VectorBlock multiplies int8 and int4 instead of this
// class.
template <class Bf16, class Int8>
struct NeonBlock {
  using Vectors = VectorBlock<WidenedBf16, PortableInt8>;
  static constexpr bool kUnsignedRows = false;
  static constexpr size_t kStreamBytes = Vectors::kStreamBytes;
  static constexpr size_t kLinesApart = 1;
  static constexpr size_t kRows = Vectors::kRows;
  static constexpr bool kNeedsTileConfiguration = false;
  static constexpr size_t group_bytes(ElementType type) {
    return type == ElementType::kBfloat16 ? Bf16::kGroupBytes : Int8::kGroupBytes;
  }

  template <ElementType kType, size_t kRowTiles, class Beside>
  static HWY_INLINE void multiply(const TileOperand& rows, const char* panel, size_t steps, float* sums,
                                  Beside& beside) {
    if constexpr (kType != ElementType::kBfloat16 && std::is_same_v<Int8, PortableInt8>) {
      return Vectors::template multiply<kType, kRowTiles>(rows, panel, steps, sums, beside);
    } else {
      beside.finish_rows();
      const size_t count = std::min(rows.row_count, kRowTiles * kRowsPerTile);
      NeonPass pass{};
      pass.panel = panel;
      pass.steps = steps;
      pass.out = sums;
      // Each pass over the panel prefetches an equal share of the next lines, so that no pass waits for all of them.
      LinesAhead lines = beside.lines;
      if constexpr (kType == ElementType::kBfloat16) {
        lines.rate /= divide_up(count, Bf16::kRowsOfUnit * kBf16Units);
        multiply_bf16<kRowTiles>(rows, pass, count, lines);
      } else {
        lines.rate /= divide_up(count, Int8::kRowsOfUnit * kInt8Units);
        pass.group_stride = kRowsPerTile * Int8::kGroupBytes;
        pass.step_stride = weight_type(kType).tile_step_bytes;
        pass.scale = reinterpret_cast<const hwy::float16_t*>(panel + kTileBytes);
        for (size_t row = 0; row < count; row += kRowsPerTile, pass.out += kRowsPerTile * kPanelColumns) {
          pass.rows = rows.tiles + line_offset(row, rows.row_tile_stride);
          pass.excess = reinterpret_cast<const int32_t*>(pass.rows + kTileBytes);
          run_neon_passes<Int8, kType, kInt8Units>(pass, std::min(count - row, kRowsPerTile), rows.columns, lines);
        }
      }
      beside.lines.next = lines.next;
    }
  }

 private:
  // The operands of bfloat16 products are rearranged or widened for a few steps at a time, so that they stay in the
  // first-level cache.
  static constexpr bool kWidens = std::is_same_v<Bf16, Dots<FloatProduct>>;
  static constexpr size_t kWidth = kWidens ? 2 : 1;  // widening doubles the bytes of a step, so one step becomes two
  static constexpr size_t kStepsAtOnce = 8 / kWidth;
  static constexpr size_t kInt8Units = 4;
  static constexpr size_t kBf16Units = kWidens ? 4 : 6;  // enough sums to hide an instruction's latency

  template <size_t kRowTiles>
  static HWY_INLINE void multiply_bf16(const TileOperand& rows, NeonPass pass, size_t count, LinesAhead& lines) {
    alignas(kLineBytes) char operands[kWidth * kStepsAtOnce * kRowTiles * kTileBytes];
    alignas(kLineBytes) char wide_panel[kWidens ? kWidth * kStepsAtOnce * kPanelStepBytes : 1];
    const char* panel = pass.panel;
    const size_t steps = pass.steps;
    pass.rows = operands;
    pass.step_stride = kRowTiles * kTileBytes;
    pass.group_stride = kRowTiles * kRowsPerTile * Bf16::kGroupBytes;
    for (size_t step = 0; step < steps; step += kStepsAtOnce, panel += kStepsAtOnce * kPanelStepBytes) {
      const size_t here = std::min(kStepsAtOnce, steps - step);
      for (size_t row = 0; row < count; row += Bf16::kRowsOfUnit) {
        const char* from = rows.tiles + line_offset(row, rows.row_tile_stride) + step * rows.step_stride;
        char* to = operands + row / Bf16::kRowsOfUnit * Bf16::kUnitBytes;
        for (size_t k = 0; k < here; ++k, from += rows.step_stride, to += kWidth * pass.step_stride) {
          kWidens ? widen_row(from, to, pass.step_stride) : pair_rows(from, to, pass.group_stride);
        }
      }
      for (size_t k = 0; kWidens && k < here; ++k) {
        widen_weights(panel + k * kPanelStepBytes, wide_panel + k * kWidth * kPanelStepBytes);
      }
      pass.steps = kWidth * here;
      pass.panel = kWidens ? wide_panel : panel;
      pass.goes_on = step > 0;
      run_neon_passes<Bf16, ElementType::kBfloat16, kBf16Units>(pass, count, rows.columns, lines);
    }
  }

  // Interleaves two lines of one step in groups of 8 bytes.
  static HWY_INLINE void pair_rows(const char* from, char* to, size_t group_stride) {
#pragma GCC unroll 4
    for (size_t i = 0; i < kLineBytes; i += kVectorBytes, to += 2 * group_stride) {
      const auto one = (int64x2_t)load_bytes(from + i), other = (int64x2_t)load_bytes(from + kLineBytes + i);
      store_bytes(to, (int8x16_t)vzip1q_s64(one, other));
      store_bytes(to + group_stride, (int8x16_t)vzip2q_s64(one, other));
    }
  }

  // Widens a line of 32 bfloat16 to two lines of 16 float32.
  static HWY_INLINE void widen_row(const char* from, char* to, size_t step_stride) {
#pragma GCC unroll 4
    for (size_t i = 0; i < kLineBytes; i += kVectorBytes) {
      const auto values = (uint16x8_t)load_bytes(from + i);
      char* place = to + i / 32 * step_stride + i % 32 * 2;
      store_bytes(place, (int8x16_t)vshll_n_u16(vget_low_u16(values), 16));
      store_bytes(place + kVectorBytes, (int8x16_t)vshll_high_n_u16(values, 16));
    }
  }

  // Widens the weights of one step to two steps of float32 lines. The lines of the input contain pairs of bfloat16.
  static HWY_INLINE void widen_weights(const char* from, char* to) {
    for (size_t line = 0; line < 2 * kRowsPerTile; ++line, from += kLineBytes) {
      const size_t tile = line / kRowsPerTile, depth = line % kRowsPerTile * 2;
      char* even = to + depth / kRowsPerTile * kPanelStepBytes + tile * kTileBytes + depth % kRowsPerTile * kLineBytes;
#pragma GCC unroll 4
      for (size_t i = 0; i < kLineBytes; i += kVectorBytes) {
        const auto pairs = (uint32x4_t)load_bytes(from + i);
        store_bytes(even + i, (int8x16_t)vshlq_n_u32(pairs, 16));
        store_bytes(even + kLineBytes + i, (int8x16_t)vandq_u32(pairs, vdupq_n_u32(0xffff0000u)));
      }
    }
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace vmoe
HWY_AFTER_NAMESPACE();
#endif

#endif  // VMOE_CORE_NEON_BLOCK_INL_H_
