// Products of tiles, block by block, and what becomes of their sums: the same on every processor, in the same order.
// kernels.cc compiles this file once per instruction set.

#if defined(VMOE_CORE_TILE_PRODUCT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VMOE_CORE_TILE_PRODUCT_INL_H_
#undef VMOE_CORE_TILE_PRODUCT_INL_H_
#else
#define VMOE_CORE_TILE_PRODUCT_INL_H_
#endif

#include <algorithm>

#include "core/rotation-inl.h"
#include "core/tile_block-inl.h"
#include "core/tile_kernels.h"
#include "core/vector_math-inl.h"
#include "core/weight_type.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace vmoe {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// ---- What becomes of sums

// Two vectors of 16 floats' worth as 32 bfloat16.
HWY_INLINE void store_bf16_line(const Floats (&values)[kPanelColumns / kLanes], char* line) {
  const BitsTag du;
#if HWY_TARGET <= HWY_AVX3_ZEN4 && HWY_ARCH_X86
  _mm512_storeu_si512(line, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(values[1].raw, values[0].raw)));
  (void)du;
#else
  const hn::Rebind<uint16_t, BitsTag> d16;
#pragma GCC unroll 16
  for (size_t v = 0; v < kPanelColumns / kLanes; ++v) {
    hn::StoreU(hn::TruncateTo(d16, hn::ShiftRight<16>(rounded_bf16(hn::BitCast(du, values[v])))), d16,
               reinterpret_cast<uint16_t*>(line) + v * kLanes);
  }
#endif
}

template <ElementType kType, bool kActivates, bool kLines>
struct Finish {
  const TileProduct& product;

  HWY_INLINE void rotate(size_t row, size_t column, Floats (&values)[kPanelColumns / kLanes]) const {
    const size_t place = product.rotation_offset[row] + (product.rotation_column + column) % product.rotation_period;
    HWY_ALIGN float line[kPanelColumns];
    for (size_t v = 0; v < kPanelColumns / kLanes; ++v) hn::Store(values[v], FloatTag(), line + v * kLanes);
    rotate_row(line, product.cosines + place, product.sines + place, kPanelColumns, line);
    for (size_t v = 0; v < kPanelColumns / kLanes; ++v) values[v] = hn::Load(FloatTag(), line + v * kLanes);
  }

  HWY_INLINE void finish_row(const float* sums, size_t row, size_t panel) const {
    const FloatTag d;
    constexpr size_t kVectors = kPanelColumns / kLanes;
    const size_t column = panel * kPanelColumns;
    Floats values[kVectors];
#pragma GCC unroll 16
    for (size_t v = 0; v < kVectors; ++v) {
      const size_t place = column + v * kLanes;
      if constexpr (kType == ElementType::kInt8) {
        const SignedTag di;
        auto whole = hn::BitCast(di, hn::Load(d, sums + v * kLanes));
        if (product.column_excess != nullptr) whole = hn::Sub(whole, hn::LoadU(di, product.column_excess + place));
        const auto scale = hn::Mul(hn::Set(d, product.row_scale[row]), hn::LoadU(d, product.column_scale + place));
        values[v] = hn::Mul(hn::ConvertTo(d, whole), scale);
      } else if constexpr (kType == ElementType::kInt4) {
        values[v] = hn::Mul(hn::Load(d, sums + v * kLanes), hn::Set(d, product.row_scale[row]));
      } else {
        values[v] = hn::Load(d, sums + v * kLanes);
      }
      if constexpr (kActivates || kLines) {
        if (product.bias != nullptr) values[v] = hn::Add(values[v], hn::LoadU(d, product.bias + place));
      }
      if constexpr (kActivates) {
        values[v] = fast_activate(product.activation, values[v]);
        if (product.factor != nullptr) {
          values[v] = hn::Mul(values[v], hn::LoadU(d, product.factor + row * product.panels * kPanelColumns + place));
        }
      }
    }
    const size_t offset = product.offset[row];
    if constexpr (kLines) {
      if (product.cosines != nullptr) rotate(row, column, values);
      if (product.exact != nullptr) {
        float* exact = product.exact + row * product.exact_stride + product.exact_column[panel];
        const bool adds = panel >= product.exact_fresh;
        for (size_t v = 0; v < kVectors; ++v) {
          float* to = exact + v * kLanes;
          hn::StoreU(adds ? hn::Add(hn::LoadU(d, to), values[v]) : values[v], d, to);
        }
      }
      store_bf16_line(values, static_cast<char*>(product.out) + offset + panel * product.line_stride);
    } else {
      float* out = product.out_row == nullptr
                       ? reinterpret_cast<float*>(static_cast<char*>(product.out) + offset) + column
                       : product.out_row[row] + product.out_column + column;
      const auto* addend =
          product.addend == nullptr
              ? nullptr
              : reinterpret_cast<const float*>(reinterpret_cast<const char*>(product.addend) + offset) + column;
      const float* bias = kActivates || product.bias == nullptr ? nullptr : product.bias + column;
      const size_t left = product.columns - column;
#pragma GCC unroll 16
      for (size_t v = 0; v < kVectors; ++v) {
        const size_t i = v * kLanes;
        if (left >= i + kLanes) {
          if (addend != nullptr) values[v] = hn::Add(hn::LoadU(d, addend + i), values[v]);
          if (bias != nullptr) values[v] = hn::Add(values[v], hn::LoadU(d, bias + i));
          hn::StoreU(values[v], d, out + i);
        } else if (left > i) {
          if (addend != nullptr) values[v] = hn::Add(hn::LoadN(d, addend + i, left - i), values[v]);
          if (bias != nullptr) values[v] = hn::Add(values[v], hn::LoadU(d, bias + i));
          hn::StoreN(values[v], d, out + i, left - i);
        }
      }
    }
  }
};

// The finished sums of one block, whose rows are dealt with while the next block multiplies.
template <class Finish>
struct PendingRows {
  const Finish& finish;
  const float* sums = nullptr;
  size_t first_row = 0;
  size_t count = 0;
  size_t done = 0;
  size_t panel = 0;

  HWY_INLINE void finish_next() {
    if (done == count) return;
    finish.finish_row(sums + done * kPanelColumns, first_row + done, panel);
    ++done;
  }
  HWY_INLINE void finish_all() {
    while (done != count) finish_next();
  }
};

// What is done beside one step of a block: rows of the block before, and lines of memory to ask for.
template <class Pending>
struct BesideProducts {
  Pending& pending;
  size_t rows_per_step;
  LinesAhead lines;

  HWY_INLINE void step() {
    for (size_t i = 0; i < rows_per_step; ++i) pending.finish_next();
    lines.step();
  }
  HWY_INLINE void finish_rows() { pending.finish_all(); }
};

template <class Block, ElementType kType, bool kActivates, bool kLines>
HWY_NOINLINE void multiply_panels(const TileProduct& product) {
  using Rows = Finish<kType, kActivates, kLines>;
  const Rows finish{product};
  HWY_ALIGN float sums[2][kSumsOfBlock];
  size_t buffer = 0;
  PendingRows<Rows> pending{finish};
  const size_t row_tiles = divide_up(product.row_count, kRowsPerTile);
  const size_t rows_per_step = divide_up(kMostRowTiles * kRowsPerTile, std::max<size_t>(product.steps, 1));
  for (size_t panel = 0; panel < product.panels; ++panel) {
    const char* weights = product.panel + panel * product.panel_stride;
    const char* next = panel + 1 < product.panels ? weights + product.panel_stride : product.next_panel;
    // Where a single pass does, the panel itself streams from memory. Else there is time to fetch the next one.
    const char* ahead = product.row_count <= Block::kRows || next == nullptr ? weights + Block::kStreamBytes : next;
    for (size_t tile = 0; tile < row_tiles;) {
      const size_t count = row_tiles_of_block(row_tiles - tile);
      BesideProducts<PendingRows<Rows>> beside{
          pending, rows_per_step, {ahead, weight_type(kType).panel_step_bytes / kLineBytes * 256 * count / row_tiles}};
      const size_t first_row = tile * kRowsPerTile;
      multiply_block<Block, kType>(count,
                                   {product.rows + tile * product.row_tile_stride, product.row_tile_stride,
                                    weight_type(kType).tile_step_bytes, product.row_count - first_row},
                                   weights, product.steps, sums[buffer], beside);
      ahead = beside.lines.next;
      pending.finish_all();
      pending.sums = sums[buffer];
      pending.first_row = first_row;
      pending.count = std::min(count * kRowsPerTile, product.row_count - first_row);
      pending.done = 0;
      pending.panel = panel;
      buffer ^= 1;
      tile += count;
    }
  }
  pending.finish_all();
}

template <class Block>
void multiply_tiles(const TileProduct& product) {
  const bool int8 = product.type == ElementType::kInt8;
  const bool activates = product.activation != Activation::kNone;
  if (product.type == ElementType::kInt4) {
    activates ? multiply_panels<Block, ElementType::kInt4, true, false>(product)
              : multiply_panels<Block, ElementType::kInt4, false, false>(product);
  } else if (activates) {
    int8            ? multiply_panels<Block, ElementType::kInt8, true, false>(product)
    : product.lines ? multiply_panels<Block, ElementType::kBfloat16, true, true>(product)
                    : multiply_panels<Block, ElementType::kBfloat16, true, false>(product);
  } else if (product.lines) {
    int8 ? multiply_panels<Block, ElementType::kInt8, false, true>(product)
         : multiply_panels<Block, ElementType::kBfloat16, false, true>(product);
  } else {
    int8 ? multiply_panels<Block, ElementType::kInt8, false, false>(product)
         : multiply_panels<Block, ElementType::kBfloat16, false, false>(product);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace vmoe
HWY_AFTER_NAMESPACE();

#endif  // VMOE_CORE_TILE_PRODUCT_INL_H_
