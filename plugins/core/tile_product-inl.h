// Computes products of tiles block by block. Finishes the sums as the product's mode requires (see tile_kernels.h).
// All processors do this in the same order. kernels.cc compiles this file once per instruction set.
//
// If the kind of block allows it, the rows of a block are finished while the next block is multiplied (PendingRows).
// On a matrix unit, this work keeps the vector units busy, which would otherwise be idle. However, the time for a GELU
// is not hidden completely. On a Xeon with AMX, 512-bit instructions run at half their rate while tile products run. A
// GELU takes about 31 of these instructions for each tile product (commit 722d4896).

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

// ---- Finishing rows

// Rounds the 32 float32 values that a row has in one panel to bfloat16, and stores them as a line.
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

using RowValues = Floats[kPanelColumns / kLanes];  // the values of one row in the columns of one panel

// Converts the sums of a row to float32, as TileProduct describes.
template <ElementType kType>
HWY_INLINE void scale_sums(const TileProduct& product, const float* sums, size_t row, size_t column,
                           RowValues& values) {
  const FloatTag d;
#pragma GCC unroll 16
  for (size_t v = 0; v < kPanelColumns / kLanes; ++v) {
    const auto sum = hn::Load(d, sums + v * kLanes);
    if constexpr (kType == ElementType::kInt8) {
      const SignedTag di;
      const size_t place = column + v * kLanes;
      auto whole = hn::BitCast(di, sum);
      if (product.column_excess != nullptr) whole = hn::Sub(whole, hn::LoadU(di, product.column_excess + place));
      const auto scale = hn::Mul(hn::Set(d, product.row_scale[row]), hn::LoadU(d, product.column_scale + place));
      values[v] = hn::Mul(hn::ConvertTo(d, whole), scale);
    } else if constexpr (kType == ElementType::kInt4) {
      values[v] = hn::Mul(sum, hn::Set(d, product.row_scale[row]));
    } else {
      values[v] = sum;
    }
  }
}

// Computes activation(value + bias) * factor. The modes that write hidden values, HiddenRows and HiddenLines, use
// this function.
template <class Hidden>
HWY_INLINE void activate_row(const TileProduct& product, const Hidden& to, size_t row, size_t column,
                             RowValues& values) {
  const FloatTag d;
#pragma GCC unroll 16
  for (size_t v = 0; v < kPanelColumns / kLanes; ++v) {
    const size_t place = column + v * kLanes;
    if (product.bias != nullptr) values[v] = hn::Add(values[v], hn::LoadU(d, product.bias + place));
    values[v] = fast_activate(to.activation, values[v]);
    if (to.factor != nullptr) {
      values[v] = hn::Mul(values[v], hn::LoadU(d, to.factor + row * product.panels * kPanelColumns + place));
    }
  }
}

HWY_INLINE void finish_row(const TileProduct& product, const FloatRows& to, size_t row, size_t panel,
                           RowValues& values) {
  const FloatTag d;
  const size_t column = panel * kPanelColumns, offset = to.offset[row], left = product.columns - column;
  float* out = to.scattered ? to.scattered->row[row] + to.scattered->first_column + column
                            : reinterpret_cast<float*>(reinterpret_cast<char*>(to.out) + offset) + column;
  const auto* addend = to.addend == nullptr
                           ? nullptr
                           : reinterpret_cast<const float*>(reinterpret_cast<const char*>(to.addend) + offset) + column;
  const float* bias = product.bias == nullptr ? nullptr : product.bias + column;
#pragma GCC unroll 16
  for (size_t v = 0; v < kPanelColumns / kLanes; ++v) {
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

HWY_INLINE void finish_row(const TileProduct& product, const HiddenRows& to, size_t row, size_t panel,
                           RowValues& values) {
  const FloatTag d;
  const size_t column = panel * kPanelColumns, left = product.columns - column;
  activate_row(product, to, row, column, values);
  float* out = reinterpret_cast<float*>(reinterpret_cast<char*>(to.out) + to.offset[row]) + column;
#pragma GCC unroll 16
  for (size_t v = 0; v < kPanelColumns / kLanes; ++v) {
    const size_t i = v * kLanes;
    if (left >= i + kLanes) {
      hn::StoreU(values[v], d, out + i);
    } else if (left > i) {
      hn::StoreN(values[v], d, out + i, left - i);
    }
  }
}

HWY_INLINE void finish_row(const TileProduct& product, const HiddenLines& to, size_t row, size_t panel,
                           RowValues& values) {
  activate_row(product, to, row, panel * kPanelColumns, values);
  store_bf16_line(values, to.out + to.offset[row] + panel * to.line_stride);
}

HWY_INLINE void rotate_line(const LineRotation& rotation, size_t row, size_t column, RowValues& values) {
  const size_t place = rotation.offset[row] + (rotation.first_column + column) % rotation.period;
  HWY_ALIGN float line[kPanelColumns];
  for (size_t v = 0; v < kPanelColumns / kLanes; ++v) hn::Store(values[v], FloatTag(), line + v * kLanes);
  rotate_row(line, rotation.cosines + place, rotation.sines + place, kPanelColumns, line);
  for (size_t v = 0; v < kPanelColumns / kLanes; ++v) values[v] = hn::Load(FloatTag(), line + v * kLanes);
}

HWY_INLINE void store_exact_line(const ExactLines& exact, size_t row, size_t panel, const RowValues& values) {
  const FloatTag d;
  float* out = exact.out + row * exact.stride + exact.column[panel];
  const bool adds = panel >= exact.first_added_panel;
  for (size_t v = 0; v < kPanelColumns / kLanes; ++v) {
    float* to = out + v * kLanes;
    hn::StoreU(adds ? hn::Add(hn::LoadU(d, to), values[v]) : values[v], d, to);
  }
}

HWY_INLINE void finish_row(const TileProduct& product, const HeadLines& to, size_t row, size_t panel,
                           RowValues& values) {
  const FloatTag d;
  const size_t column = panel * kPanelColumns;
#pragma GCC unroll 16
  for (size_t v = 0; v < kPanelColumns / kLanes; ++v) {
    if (product.bias != nullptr) values[v] = hn::Add(values[v], hn::LoadU(d, product.bias + column + v * kLanes));
  }
  if (to.rotation) rotate_line(*to.rotation, row, column, values);
  if (to.exact) store_exact_line(*to.exact, row, panel, values);
  store_bf16_line(values, to.out + to.offset[row] + panel * to.line_stride);
}

// Prefetches what finish_row() will read and write of a row. Only float32 rows with an addend need this: the addend and
// the output come from the third-level cache, with a stride that no hardware prefetcher follows. In int8
// and int4, this does not help where the addend is the output: most often it was written shortly before, for the
// previous chunk of hidden values.
template <ElementType kType>
HWY_INLINE void prefetch_row(const FloatRows& to, size_t row, size_t panel) {
  if (to.addend == nullptr || to.scattered) return;
  if (kType != ElementType::kBfloat16 && to.addend == to.out) return;
  const size_t place = to.offset[row] + panel * kPanelColumns * sizeof(float);
  const char* out = reinterpret_cast<const char*>(to.out) + place;
  __builtin_prefetch(out, 1, 3);
  __builtin_prefetch(out + kLineBytes, 1, 3);
  if (to.addend == to.out) return;
  const char* addend = reinterpret_cast<const char*>(to.addend) + place;
  __builtin_prefetch(addend, 0, 3);
  __builtin_prefetch(addend + kLineBytes, 0, 3);
}
template <ElementType kType, class Mode>
HWY_INLINE void prefetch_row(const Mode&, size_t, size_t) {}

// How many rows ahead rows are prefetched. With throw-away code on a Xeon with AMX, an image of a B/16 in bfloat16 took
// 15.70 instead of 17.26 ms at batch size 32.
constexpr size_t kRowsAhead = 6;

// The sums of one finished block. The rows of this block are written while the next block is multiplied.
template <ElementType kType, class Mode>
struct PendingRows {
  const TileProduct& product;
  const Mode& to;
  const float* sums = nullptr;
  size_t first_row = 0;
  size_t count = 0;
  size_t done = 0;
  size_t panel = 0;

  HWY_INLINE void finish_next() {
    if (done == count) return;
    if (done + kRowsAhead < count) prefetch_row<kType>(to, first_row + done + kRowsAhead, panel);
    RowValues values;
    scale_sums<kType>(product, sums + done * kPanelColumns, first_row + done, panel * kPanelColumns, values);
    finish_row(product, to, first_row + done, panel, values);
    ++done;
  }
  HWY_INLINE void finish_all() {
    while (done != count) finish_next();
  }
};

// The work that is done during the steps of a block: finishing rows of the previous block, and prefetching lines.
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

// Multiplies all row tiles by one panel after another. The rows of a block are finished during the steps of the next
// block, so there are two buffers for sums.
template <class Block, ElementType kType, class Mode>
HWY_NOINLINE void multiply_panels(const TileProduct& product, const Mode& to) {
  HWY_ALIGN float sums[2][kSumsOfBlock];
  size_t buffer = 0;
  PendingRows<kType, Mode> pending{product, to};
  const size_t row_tiles = divide_up(product.row_count, kRowsPerTile);
  for (size_t panel = 0; panel < product.panels; ++panel) {
    const char* weights = product.panel + panel * product.panel_stride;
    const char* next = panel + 1 < product.panels ? weights + product.panel_stride : product.next_panel;
    LinesAhead lines;
    lines.apart = row_tiles <= kMostRowTiles ? Block::kLinesApart : 1;
    // If all rows are multiplied in one pass, the rest of the same panel is prefetched from memory. If several passes
    // are needed, there is time to prefetch the next panel.
    lines.next = product.row_count <= Block::kRows || next == nullptr ? weights + Block::kStreamBytes : next;
    for (size_t tile = 0; tile < row_tiles;) {
      const size_t count = row_tiles_of_block(row_tiles - tile);
      const size_t first_row = tile * kRowsPerTile;
      lines.rate = weight_type(kType).panel_step_bytes / kLineBytes * 256 * count / row_tiles;
      const size_t rows_per_step = divide_up(pending.count, std::max<size_t>(product.steps, 1));
      BesideProducts<PendingRows<kType, Mode>> beside{pending, rows_per_step, lines};
      TileOperand rows;
      rows.tiles = product.rows + tile * product.row_tile_stride;
      rows.row_tile_stride = product.row_tile_stride;
      rows.step_stride = weight_type(kType).tile_step_bytes;
      rows.row_count = product.row_count - first_row;
      multiply_block<Block, kType>(count, rows, weights, product.steps, sums[buffer], beside);
      lines.next = beside.lines.next;
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

// Multiplies by weights whose type is one of kTypes, the types that the mode supports.
template <class Block, ElementType... kTypes, class Mode>
void multiply_types(const TileProduct& product, const Mode& to) {
  ((product.type == kTypes ? multiply_panels<Block, kTypes>(product, to) : void()), ...);
}

template <class Block>
void multiply_to_float_rows(const TileProduct& product, const FloatRows& to) {
  multiply_types<Block, ElementType::kBfloat16, ElementType::kInt8, ElementType::kInt4>(product, to);
}

template <class Block>
void multiply_to_hidden_rows(const TileProduct& product, const HiddenRows& to) {
  multiply_types<Block, ElementType::kBfloat16, ElementType::kInt8, ElementType::kInt4>(product, to);
}

template <class Block>
void multiply_to_hidden_lines(const TileProduct& product, const HiddenLines& to) {
  multiply_types<Block, ElementType::kBfloat16>(product, to);
}

template <class Block>
void multiply_to_head_lines(const TileProduct& product, const HeadLines& to) {
  multiply_types<Block, ElementType::kBfloat16, ElementType::kInt8>(product, to);
}

}  // namespace HWY_NAMESPACE
}  // namespace vmoe
HWY_AFTER_NAMESPACE();

#endif  // VMOE_CORE_TILE_PRODUCT_INL_H_
