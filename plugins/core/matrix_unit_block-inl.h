// Multiplies blocks of rows and weights in the tile registers of a matrix unit (AMX). kernels.cc compiles this file
// once per instruction set.
//
// One tile product multiplies 16 rows by 16 columns over a step: 8,192 multiply-adds in bfloat16, or 16,384 in int8.
// Its cost was measured on two Xeons with AMX. The table is for the newer Xeon (commit 722d4896); bfloat16 and int8
// take the same time:
//
// | a tile product | ns |
// |---|---|
// | in registers alone (16 cycles) | 4.58 |
// | in a block of 2 x 2 tiles, operands from the first-level cache, loaded by tileloadd | 5.34 |
// | in the same block, operands loaded by tileloaddt1 | 6.43 |
//
// - Rows, and panels that stream, are loaded by tileloaddt1. It was chosen with a prototype on the older Xeon. With
//   operands in the second-level cache, it raised the speed of a product from 1.53 to 2.41 T/s.
// - The block sizes come from the same prototype. They are 2 x 2 tiles, and 3 x 2 tiles for an odd row tile.
// - kStreamBytes also comes from the prototype. The experts of a V-MoE B/16, with about 8 rows each, took 15.5 ms when
//   prefetching 2 to 4 KB ahead, instead of 19.7 ms. On the newer Xeon, two threads read 40.3, 39.2 and 36.6 GB/s when
//   prefetching 1, 2 and 4 KB ahead, and 29.6 GB/s without a prefetch.
// - A panel of at most kNearBytes, if several row tiles are multiplied by it, is loaded by tileloadd through the
//   first-level cache of 48 KB. It stays there beside the sums, because rows do not push it out. A tile then loads in
//   2.2 ns; tileloaddt1 takes 4.1 to 4.8 ns. With throw-away code on the newer Xeon, the int8 products of 394 rows of a
//   B/16 (panels of 24 KB) took 0.55 instead of 0.65 ms (QKV) and 0.86 instead of 0.91 ms (first product of the MLP).
//   Panels of 48 KB (bfloat16) were 4 to 5 % slower in this way. The limit counts bytes, so it also admits the panels
//   of attention in bfloat16, which are smaller.
// - kLinesApart: when panels stream past at most 3 row tiles, every fourth line is prefetched, and the second-level
//   cache's own prefetcher brings the lines between. With throw-away code on the newer Xeon, a V-MoE took 0.95 of the
//   time at batch size 1, together with finishing rows evenly over the steps. One line in eight gained nothing.
// - In a batch, int4 costs more than int8, because vector instructions unpack int4 weights, and scale and add up the
//   sums. On the newer Xeon at batch size 8, an image of a V-MoE B/16 took 11.7 ms with int4, and 10.9 ms with int8. A
//   single image waits for the weights, which are smaller in int4. It took 20.4 ms with int4, and 21.6 ms with int8.

#if defined(VMOE_CORE_MATRIX_UNIT_BLOCK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VMOE_CORE_MATRIX_UNIT_BLOCK_INL_H_
#undef VMOE_CORE_MATRIX_UNIT_BLOCK_INL_H_
#else
#define VMOE_CORE_MATRIX_UNIT_BLOCK_INL_H_
#endif

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/bfloat16.h"
#include "core/dot_products-inl.h"
#include "core/tile_block-inl.h"
#include "core/vector_block-inl.h"
#include "core/vector_math-inl.h"
#include "core/weight_type.h"
#include "hwy/highway.h"

#if HWY_TARGET == HWY_AVX3_ZEN4  // the only target for which kernels with matrix units are compiled
HWY_BEFORE_NAMESPACE();
namespace vmoe {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// ---- Tile registers (16 lines of 64 bytes): the processor's, and emulated ones

// The processor's tile registers. The instructions are written in assembly, so that the compiler does not have to
// support AMX.
struct HardwareTiles {
  static constexpr bool kNeedConfiguration = true;

  template <int kTile>
  HWY_INLINE void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  // tileloaddt1 loads from the second-level cache, so that the first-level cache is left to the outputs.
  template <int kTile>
  HWY_INLINE void load(const char* from) {
    asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(kLineBytes), "i"(kTile));
  }
  // tileloadd loads through the first-level cache.
  template <int kTile>
  HWY_INLINE void load_near(const char* from) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(kLineBytes), "i"(kTile));
  }
  template <ElementType kType, int kSums, int kRows, int kWeights>
  HWY_INLINE void multiply() {
    if constexpr (kType == ElementType::kInt8) {
      asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kRows), "i"(kWeights));
    } else {
      asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kRows), "i"(kWeights));
    }
  }
  template <int kTile>
  HWY_INLINE void store(float* to) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(kPanelColumns * sizeof(float)), "i"(kTile));
  }
  // Stores the tile's lines without gaps.
  template <int kTile>
  HWY_INLINE void store_lines(float* to) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(kLineBytes), "i"(kTile));
  }
};

// Computes the same bits as HardwareTiles in plain C++, for machines without tile registers.
class EmulatedTiles {
 public:
  static constexpr bool kNeedConfiguration = false;

  template <int kTile>
  void zero() {
    std::memset(tiles_[kTile], 0, kTileBytes);
  }
  template <int kTile>
  void load(const char* from) {
    std::memcpy(tiles_[kTile], from, kTileBytes);
  }
  template <int kTile>
  void load_near(const char* from) {
    load<kTile>(from);
  }
  template <ElementType kType, int kSums, int kRows, int kWeights>
  void multiply() {
    for (size_t row = 0; row < kRowsPerTile; ++row) {
      for (size_t column = 0; column < kRowsPerTile; ++column) {
        if constexpr (kType == ElementType::kInt8) {
          add_int8(tiles_[kRows][row], tiles_[kWeights], column, &tiles_[kSums][row][column * 4]);
        } else {
          add_bf16(tiles_[kRows][row], tiles_[kWeights], column, &tiles_[kSums][row][column * 4]);
        }
      }
    }
  }
  template <int kTile>
  void store(float* to) {
    for (size_t row = 0; row < kRowsPerTile; ++row)
      std::memcpy(to + row * kPanelColumns, tiles_[kTile][row], kLineBytes);
  }
  template <int kTile>
  void store_lines(float* to) {
    std::memcpy(to, tiles_[kTile], kTileBytes);
  }

 private:
  char tiles_[8][kRowsPerTile][kLineBytes];

  // Returns `value`, or zero if `value` is subnormal. The matrix unit treats its inputs and outputs in this way.
  static float flushed(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    if ((bits & 0x7f800000u) == 0) bits &= 0x80000000u;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }
  static float load_wide(const char* from) {
    Bf16 half;
    std::memcpy(&half, from, sizeof(half));
    return flushed(from_bf16(half));
  }

  // Keeps two sums: one of the products of the depth's even elements, and one of the products of its odd elements. Each
  // product is added with a single rounding. Then adds the two sums to each other, and the result to `sum`.
  static void add_bf16(const char* row, const char (*weights)[kLineBytes], size_t column, char* sum) {
    float parts[2] = {0, 0};
    for (size_t line = 0; line < kRowsPerTile; ++line) {
      for (size_t half = 0; half < 2; ++half) {
        parts[half] = flushed(__builtin_fmaf(load_wide(row + line * 4 + half * 2),
                                             load_wide(weights[line] + column * 4 + half * 2), parts[half]));
      }
    }
    float total;
    std::memcpy(&total, sum, sizeof(total));
    total = flushed(total + flushed(parts[0] + parts[1]));
    std::memcpy(sum, &total, sizeof(total));
  }

  static void add_int8(const char* row, const char (*weights)[kLineBytes], size_t column, char* sum) {
    int32_t total;
    std::memcpy(&total, sum, sizeof(total));
    for (size_t line = 0; line < kRowsPerTile; ++line) {
      for (size_t i = 0; i < 4; ++i) {
        total += static_cast<signed char>(row[line * 4 + i]) * static_cast<signed char>(weights[line][column * 4 + i]);
      }
    }
    std::memcpy(sum, &total, sizeof(total));
  }
};

// ---- Blocks

// Multiplies row tiles by one panel. Meanwhile, `beside` works on the vector units, which would otherwise be idle.
template <class Tiles>
struct MatrixUnitBlock {
  static constexpr bool kUnsignedRows = false;
  static constexpr bool kNeedsTileConfiguration = Tiles::kNeedConfiguration;
  static constexpr size_t group_bytes(ElementType) { return kLeastGroupBytes; }
  static constexpr size_t kStreamBytes = 4096;
  static constexpr size_t kLinesApart = 4;
  static constexpr size_t kRows = kRowsPerTile;

  template <ElementType kType, size_t kRowTiles, class Beside>
  static HWY_INLINE void multiply(const TileOperand& operand, const char* panel, size_t steps, float* sums,
                                  Beside& beside) {
    static_assert(kRowTiles >= 1 && kRowTiles <= kMostRowTiles);
    if constexpr (kType == ElementType::kInt4) {
      if constexpr (kRowTiles == 1) {
        // Few rows leave most of a tile idle. VectorBlock has the same layout, and unpacks weights into registers.
        using Vectors = VectorBlock<NativeBf16, VnniInt8>;
        if (operand.row_count <= Vectors::kRows) {
          return Vectors::template multiply<kType, 1>(operand, panel, steps, sums, beside);
        }
      }
      multiply_int4<kRowTiles>(operand, panel, steps, sums, beside);
    } else if constexpr (kRowTiles == 1) {
      multiply_steps<kType, kRowTiles, false>(operand, panel, steps, sums, beside);
    } else if (steps * kPanelStepBytes <= kNearBytes) {
      multiply_steps<kType, kRowTiles, true>(operand, panel, steps, sums, beside);
    } else {
      multiply_steps<kType, kRowTiles, false>(operand, panel, steps, sums, beside);
    }
  }

 private:
  // The largest panel that is loaded through the first-level cache.
  static constexpr size_t kNearBytes = 32 << 10;

  template <bool kNear, int kTile>
  static HWY_INLINE void load_panel(Tiles& t, const char* from) {
    if constexpr (kNear) {
      t.template load_near<kTile>(from);
    } else {
      t.template load<kTile>(from);
    }
  }

  template <ElementType kType, size_t kRowTiles, bool kNear, class Beside>
  static HWY_INLINE void multiply_steps(const TileOperand& operand, const char* panel, size_t steps, float* sums,
                                        Beside& beside) {
    const char* rows = operand.tiles;
    const size_t stride = operand.row_tile_stride;
    Tiles t;
    zero_sums(t, std::make_index_sequence<2 * kRowTiles>());
    for (size_t k = 0; k < steps; ++k) {
      if constexpr (kRowTiles == 1) {
        t.template load<4>(rows);
        load_panel<kNear, 5>(t, panel);
        t.template multiply<kType, 0, 4, 5>();
        load_panel<kNear, 6>(t, panel + kTileBytes);
        t.template multiply<kType, 1, 4, 6>();
      } else if constexpr (kRowTiles == 2) {
        load_panel<kNear, 6>(t, panel);
        t.template load<4>(rows);
        t.template multiply<kType, 0, 4, 6>();
        load_panel<kNear, 7>(t, panel + kTileBytes);
        t.template multiply<kType, 1, 4, 7>();
        t.template load<5>(rows + stride);
        t.template multiply<kType, 2, 5, 6>();
        t.template multiply<kType, 3, 5, 7>();
      } else {
        // Six of the eight registers contain sums, one contains weights, and one contains the current row tile. For
        // the first half of the panel, the three row tiles are loaded from first to last. For the second half, they
        // are loaded from last to first. The last row tile is thus loaded only once.
        load_panel<kNear, 7>(t, panel);
        t.template load<6>(rows);
        t.template multiply<kType, 0, 6, 7>();
        t.template load<6>(rows + stride);
        t.template multiply<kType, 2, 6, 7>();
        t.template load<6>(rows + 2 * stride);
        t.template multiply<kType, 4, 6, 7>();
        load_panel<kNear, 7>(t, panel + kTileBytes);
        t.template multiply<kType, 5, 6, 7>();
        t.template load<6>(rows + stride);
        t.template multiply<kType, 3, 6, 7>();
        t.template load<6>(rows);
        t.template multiply<kType, 1, 6, 7>();
      }
      rows += operand.step_stride;
      panel += kPanelStepBytes;
      beside.step();
    }
    store_sums(t, sums, std::make_index_sequence<2 * kRowTiles>());
  }

  // Some consecutive steps of int4. Their weights are unpacked together, and their sums are stored together, so that
  // what is stored has reached the cache before it is loaded. More than 8 KB of weights would leave the first-level
  // cache.
  struct Int4Steps {
    static constexpr size_t kMost = 4;
    static constexpr size_t kHalfColumns = kPanelColumns / 2;
    HWY_ALIGN char weights[kMost][2][kTileBytes];  // int8
    HWY_ALIGN float scales[kMost][kPanelColumns];
    HWY_ALIGN float sums[kMost][kRowsPerTile][kHalfColumns];  // int32, of one row tile and one half of the columns

    HWY_INLINE void unpack(size_t k, const char* panel) {
      const FloatTag d;
      const BitsTag du;
      const hn::Repartition<int8_t, BitsTag> d8;
      const auto low = hn::Set(du, 0x0f0f0f0fu);
      const auto store = [&](Bits packed, char* to) HWY_ATTR {
        const auto nibbles = hn::BitCast(d8, hn::And(packed, low));
        hn::Store(hn::BitCast(du, hn::Sub(nibbles, hn::Set(d8, kInt4Excess))), du, reinterpret_cast<uint32_t*>(to));
      };
      for (size_t i = 0; i < kTileBytes; i += kLanes * sizeof(float)) {
        const auto both = hn::LoadU(du, reinterpret_cast<const uint32_t*>(panel + i));
        char* to = weights[k][0] + i / kLineBytes * 2 * kLineBytes + i % kLineBytes;
        store(both, to);
        store(hn::ShiftRight<4>(both), to + kLineBytes);
      }
      for (size_t v = 0; v < kPanelColumns / kLanes; ++v) {
        hn::Store(int4_scale(panel, v * kLanes), d, scales[k] + v * kLanes);
      }
    }

    // Multiplies a row tile by the weights of half of the columns, two steps at a time.
    HWY_INLINE void multiply(const char* rows, size_t step_stride, size_t half, size_t count) {
      Tiles t;
      asm volatile("" : : : "memory");
      for (size_t k = 0; k < count; k += 2) {
        t.template zero<0>();
        t.template load<4>(rows + k * step_stride);
        t.template load_near<5>(weights[k][half]);
        t.template multiply<ElementType::kInt8, 0, 4, 5>();
        if (k + 1 < count) {
          t.template zero<1>();
          t.template load<6>(rows + (k + 1) * step_stride);
          t.template load_near<7>(weights[k + 1][half]);
          t.template multiply<ElementType::kInt8, 1, 6, 7>();
          t.template store_lines<1>(sums[k + 1][0]);
        }
        t.template store_lines<0>(sums[k][0]);
      }
      asm volatile("" : : : "memory");
    }

    // Scales the sums of the first kRows rows, and adds them to `totals`, whose rows are kPanelColumns apart.
    template <size_t kRows>
    HWY_INLINE void add_rows_to(float* totals, size_t half, size_t count) const {
      const FloatTag d;
      for (size_t column = 0; column < kHalfColumns; column += kLanes) {
        Floats total[kRows];
#pragma GCC unroll 16
        for (size_t row = 0; row < kRows; ++row) total[row] = hn::Load(d, totals + row * kPanelColumns + column);
        for (size_t k = 0; k < count; ++k) {
          const auto scale = hn::Load(d, scales[k] + half * kHalfColumns + column);
#pragma GCC unroll 16
          for (size_t row = 0; row < kRows; ++row) {
            const auto whole = hn::ConvertTo(d, hn::BitCast(SignedTag(), hn::Load(d, sums[k][row] + column)));
            total[row] = hn::Add(total[row], hn::Mul(whole, scale));
          }
        }
#pragma GCC unroll 16
        for (size_t row = 0; row < kRows; ++row) hn::Store(total[row], d, totals + row * kPanelColumns + column);
      }
    }

    // Does the same for `row_count` rows, rounded up to a quarter of a row tile.
    HWY_INLINE void add_to(float* totals, size_t row_count, size_t half, size_t count) const {
      if (row_count > 12) return add_rows_to<16>(totals, half, count);
      if (row_count > 8) return add_rows_to<12>(totals, half, count);
      if (row_count > 4) return add_rows_to<8>(totals, half, count);
      add_rows_to<4>(totals, half, count);
    }
  };

  template <size_t kRowTiles, class Beside>
  static HWY_INLINE void multiply_int4(const TileOperand& operand, const char* panel, size_t steps, float* sums,
                                       Beside& beside) {
    Int4Steps some;
    std::fill_n(sums, kRowTiles * kRowsPerTile * kPanelColumns, 0.0f);
    for (size_t first = 0; first < steps; first += Int4Steps::kMost) {
      const size_t count = std::min(Int4Steps::kMost, steps - first);
      for (size_t k = 0; k < count; ++k) {
        some.unpack(k, panel);
        panel += weight_type(ElementType::kInt4).panel_step_bytes;
        beside.step();
      }
      for (size_t tile = 0; tile < kRowTiles; ++tile) {
        const char* rows = operand.tiles + tile * operand.row_tile_stride + first * operand.step_stride;
        float* totals = sums + tile * kRowsPerTile * kPanelColumns;
        const size_t row_count = operand.row_count - tile * kRowsPerTile;
        for (size_t half = 0; half < 2; ++half) {
          some.multiply(rows, operand.step_stride, half, count);
          some.add_to(totals + half * Int4Steps::kHalfColumns, row_count, half, count);
        }
      }
    }
  }

  // The sums of row tile r are in registers 2 r and 2 r + 1. Each register contains 16 columns.
  template <size_t... kSums>
  static HWY_INLINE void zero_sums(Tiles& t, std::index_sequence<kSums...>) {
    (t.template zero<kSums>(), ...);
  }
  template <size_t... kSums>
  static HWY_INLINE void store_sums(Tiles& t, float* sums, std::index_sequence<kSums...>) {
    (t.template store<kSums>(sums + kSums / 2 * kRowsPerTile * kPanelColumns + kSums % 2 * kPanelColumns / 2), ...);
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace vmoe
HWY_AFTER_NAMESPACE();
#endif

#endif  // VMOE_CORE_MATRIX_UNIT_BLOCK_INL_H_
