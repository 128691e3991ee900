// Multiplies blocks with vector instructions. kernels.cc compiles this file once per instruction set.
//
// A pass multiplies some rows by 16 or 32 columns and keeps the sums in registers. The constants depend on the number
// of registers:
//
// | vectors | registers | kRows | columns | sums | left for weights and rows |
// |---|---|---|---|---|---|
// | 512 bits | 32 | 8 | 32 | 16 | 16 |
// | 256 bits | 16 | 4 | 16 | 8 | 8 |
//
// Other values were not measured. kStreamBytes is from commit 0ca0cb0e, which does not record any measurements or the
// processor. The cost of a pass depends on how it computes products (dot_products-inl.h); kernels.cc compares the
// costs.

#if defined(VMOE_CORE_VECTOR_BLOCK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VMOE_CORE_VECTOR_BLOCK_INL_H_
#undef VMOE_CORE_VECTOR_BLOCK_INL_H_
#else
#define VMOE_CORE_VECTOR_BLOCK_INL_H_
#endif

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "core/dot_products-inl.h"
#include "core/tile_block-inl.h"
#include "core/vector_math-inl.h"
#include "core/weight_type.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace vmoe {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Multiplies row tiles by one panel. Each row of `sums` has 32 columns.
template <class Bf16Sums, class Int8Sums>
struct VectorBlock {
  static constexpr bool kUnsignedRows = HWY_ARCH_X86;
  static constexpr bool kNeedsTileConfiguration = false;
  static constexpr size_t group_bytes(ElementType) { return kLeastGroupBytes; }
  // Prefetch distance in bytes for a panel that is read directly from memory. The distance is meant to be long enough
  // to reach the memory's full bandwidth.
  static constexpr size_t kStreamBytes = 8192;
  static constexpr size_t kLinesApart = 1;
  // Maximum number of rows that one pass over a panel multiplies.
  static constexpr size_t kRows = kLanes == kRowsPerTile ? 8 : 4;

  template <ElementType kType, size_t kRowTiles, class Beside>
  static HWY_INLINE void multiply(const TileOperand& rows, const char* panel, size_t steps, float* sums,
                                  Beside& beside) {
    beside.finish_rows();
    using Group = std::conditional_t<kType == ElementType::kInt8, Int8Sums, Bf16Sums>;
    // Only existing rows are multiplied, not the padding of the last tile.
    const size_t count = std::min(rows.row_count, kRowTiles * kRowsPerTile);
    // Each pass over the panel prefetches an equal share of the next lines, so that no pass waits for all of them.
    LinesAhead lines = beside.lines;
    LinesAhead none;
    lines.rate /= divide_up(count, kRows);
    for (size_t row = 0; row < count; row += kRows) {
      const char* mine = rows.tiles + line_offset(row, rows.row_tile_stride);
      const size_t parts = divide_up(rows.columns, kRowsPerTile);
      for (size_t part = 0; part < parts; part += kParts) {
        const char* weights = panel + part * kTileBytes;
        float* out = sums + row * kPanelColumns + part * kPanelColumns / 2;
        LinesAhead& ahead = part == 0 ? lines : none;
        if constexpr (kType == ElementType::kInt4) {
          const char* excess = mine + kTileBytes - row % kRowsPerTile * (kLineBytes - sizeof(int32_t));
          const size_t quarters = divide_up(std::min(count - row, kRows), kRows / 4);
          constexpr decltype(&run_int4_pass<1>) kPasses[] = {run_int4_pass<kRows / 4>, run_int4_pass<kRows / 2>,
                                                             run_int4_pass<kRows * 3 / 4>, run_int4_pass<kRows>};
          kPasses[quarters - 1](mine, excess, panel, part, steps, out, ahead);
          continue;
        }
        constexpr size_t kNarrow = kType == ElementType::kBfloat16 && kParts == 2 ? 1 : kVectorsOfPass;
        const auto pass = parts == 1                ? run_pass<Group, kRows, kNarrow>
                          : count - row > kRows / 2 ? run_pass<Group, kRows>
                                                    : run_pass<Group, kRows / 2>;
        pass(mine, rows.step_stride, weights, steps, rows.last_lines, out, ahead);
      }
    }
    beside.lines.next = lines.next;
  }

 private:
  // kPartVectors is the number of vectors in a line of 16 columns. kParts is the number of lines that a pass multiplies
  // side by side.
  static constexpr size_t kPartVectors = kRowsPerTile / kLanes;
  static constexpr size_t kParts = kPartVectors == 1 ? 2 : 1;
  static constexpr size_t kVectorsOfPass = kParts * kPartVectors;

  // Runs one pass over a panel. For bfloat16, the pass multiplies only the first `last_lines` lines of the last step.
  template <class Group, size_t kCount, size_t kVectors = kVectorsOfPass>
  static HWY_NOINLINE void run_pass(const char* rows, size_t step_stride, const char* panel, size_t steps,
                                    size_t last_lines, float* out, LinesAhead& lines) {
    LinesAhead ahead = lines;
    typename Group::Sums sums[kCount][kVectors];
#pragma GCC unroll 16
    for (auto& row : sums) {
#pragma GCC unroll 16
      for (auto& vector : row) vector = Group::zero();
    }
    constexpr bool kMayEnd = std::is_same_v<Group, Bf16Sums>;
    const bool ends = kMayEnd && last_lines < kRowsPerTile;
    for (size_t k = ends ? 1 : 0; k < steps; ++k) {
      if constexpr (std::is_same_v<Group, WidenedBf16>) {
        add_widened<Group>(rows, panel, kRowsPerTile, sums);
      } else if constexpr (Group::kOneInstruction) {
        // The loop is unrolled, so that each sum stays in the same register for all lines.
#pragma GCC unroll 16
        for (size_t line = 0; line < kRowsPerTile; ++line) add_line<Group>(rows, panel, line, sums);
      } else {
        for (size_t line = 0; line < kRowsPerTile; ++line) add_line<Group>(rows, panel, line, sums);
      }
      rows += step_stride;
      panel += kPanelStepBytes;
      ahead.step();
    }
    if constexpr (std::is_same_v<Group, WidenedBf16>) {
      if (ends) add_widened<Group>(rows, panel, last_lines, sums);
    } else if constexpr (kMayEnd) {
      for (size_t line = 0; ends && line < last_lines; ++line) add_line<Group>(rows, panel, line, sums);
    }
    lines = ahead;
#pragma GCC unroll 16
    for (size_t r = 0; r < kCount; ++r) {
#pragma GCC unroll 16
      for (size_t v = 0; v < kVectors; ++v) {
        hn::StoreU(hn::BitCast(FloatTag(), sums[r][v]), FloatTag(), out + r * kPanelColumns + v * kLanes);
      }
    }
  }

  template <class Group, size_t kCount, size_t kVectors>
  static HWY_INLINE void add_line(const char* rows, const char* panel, size_t line,
                                  typename Group::Sums (&sums)[kCount][kVectors]) {
    Bits weights[kVectors];
#pragma GCC unroll 16
    for (size_t v = 0; v < kVectors; ++v) weights[v] = load_weights(panel, line, v);
#pragma GCC unroll 16
    for (size_t r = 0; r < kCount; ++r) {
      const auto group = load_group(rows + r * kLineBytes + line * sizeof(uint32_t));
#pragma GCC unroll 16
      for (size_t v = 0; v < kVectors; ++v) sums[r][v] = Group::add(group, weights[v], sums[r][v]);
    }
  }

  static HWY_INLINE Bits load_weights(const char* panel, size_t line, size_t v) {
    const char* from = panel + v / kPartVectors * kTileBytes + line * kLineBytes + v % kPartVectors * kLanes * 4;
    return hn::LoadU(BitsTag(), reinterpret_cast<const uint32_t*>(from));
  }

  // Adds the products of one bfloat16 step to the sums. Rows and weights are first widened to float32.
  template <class Group, size_t kCount, size_t kVectors>
  static HWY_INLINE void add_widened(const char* rows, const char* panel, size_t lines,
                                     Floats (&sums)[kCount][kVectors]) {
    HWY_ALIGN float values[kCount][2 * kRowsPerTile];
    for (size_t r = 0; r < kCount; ++r) Group::widen_line(rows + r * kLineBytes, values[r]);
    for (size_t line = 0; line < lines; ++line) {
      Floats even[kVectors], odd[kVectors];
#pragma GCC unroll 16
      for (size_t v = 0; v < kVectors; ++v) Group::widen(load_weights(panel, line, v), even[v], odd[v]);
#pragma GCC unroll 16
      for (size_t r = 0; r < kCount; ++r) {
#pragma GCC unroll 16
        for (size_t v = 0; v < kVectors; ++v) sums[r][v] = Group::add(values[r] + line, even[v], odd[v], sums[r][v]);
      }
    }
  }

  // Loads a group of a row, and broadcasts it to all lanes.
  static HWY_INLINE Bits load_group(const char* from) {
    uint32_t group;
    std::memcpy(&group, from, sizeof(group));
    return hn::Set(BitsTag(), group);
  }

  // Does the same as run_pass, but for int4 weights. Multiplies by the columns that begin at half `half` (0 or 1) of
  // the panel. `excess` points to the row sums in the activations (see tiles.h).
  template <size_t kCount>
  static HWY_NOINLINE void run_int4_pass(const char* rows, const char* excess, const char* panel, size_t half,
                                         size_t steps, float* out, LinesAhead& lines) {
    constexpr size_t kVectors = kVectorsOfPass;
    const FloatTag d;
    const SignedTag di;
    const auto low = hn::Set(BitsTag(), 0x0f0f0f0fu);
    LinesAhead ahead = lines;
#pragma GCC unroll 32
    for (size_t i = 0; i < kCount * kVectors; ++i)
      hn::Store(hn::Zero(d), d, out + i / kVectors * kPanelColumns + i % kVectors * kLanes);
    const char* weights_of_half = panel + half * (kTileBytes / 2);
    panel += half * kRowsPerTile * 2;
    for (size_t k = 0; k < steps; ++k) {
      typename Int8Sums::Sums sums[kCount][kVectors];
#pragma GCC unroll 16
      for (size_t r = 0; r < kCount; ++r) {
        const auto start = hn::BitCast(di, load_group(excess + r * sizeof(int32_t)));
#pragma GCC unroll 16
        for (auto& vector : sums[r]) vector = start;
      }
      const auto add_lines = [&](size_t pair) HWY_ATTR {
        Bits weights[kVectors][2];
#pragma GCC unroll 16
        for (size_t v = 0; v < kVectors; ++v) {
          const char* from =
              weights_of_half + v / kPartVectors * (kTileBytes / 2) + pair * kLineBytes + v % kPartVectors * kLanes * 4;
          const auto both = hn::LoadU(BitsTag(), reinterpret_cast<const uint32_t*>(from));
          weights[v][0] = hn::And(both, low);
          weights[v][1] = hn::And(hn::ShiftRight<4>(both), low);
        }
#pragma GCC unroll 16
        for (size_t r = 0; r < kCount; ++r) {
          const char* from = rows + r * kLineBytes + pair * 2 * sizeof(uint32_t);
          const Bits row[] = {load_group(from), load_group(from + sizeof(uint32_t))};
#pragma GCC unroll 16
          for (size_t v = 0; v < kVectors; ++v) sums[r][v] = Int8Sums::add_int4(weights[v], row, sums[r][v]);
        }
      };
      if constexpr (Int8Sums::kOneInstruction) {
#pragma GCC unroll 16
        for (size_t pair = 0; pair < kRowsPerTile / 2; ++pair) add_lines(pair);
      } else {
        for (size_t pair = 0; pair < kRowsPerTile / 2; ++pair) add_lines(pair);
      }
      Floats scale[kVectors];
#pragma GCC unroll 16
      for (size_t v = 0; v < kVectors; ++v) scale[v] = int4_scale(panel, v * kLanes);
#pragma GCC unroll 16
      for (size_t r = 0; r < kCount; ++r) {
#pragma GCC unroll 16
        for (size_t v = 0; v < kVectors; ++v) {
          float* total = out + r * kPanelColumns + v * kLanes;
          hn::Store(hn::Add(hn::Load(d, total), hn::Mul(hn::ConvertTo(d, sums[r][v]), scale[v])), d, total);
        }
      }
      rows += weight_type(ElementType::kInt4).tile_step_bytes;
      excess += weight_type(ElementType::kInt4).tile_step_bytes;
      panel += weight_type(ElementType::kInt4).panel_step_bytes;
      weights_of_half += weight_type(ElementType::kInt4).panel_step_bytes;
      ahead.step();
    }
    lines = ahead;
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace vmoe
HWY_AFTER_NAMESPACE();

#endif  // VMOE_CORE_VECTOR_BLOCK_INL_H_
