// Computes one head of attention in tiles. kernels.cc compiles this file once per instruction set.
//
// There are two products: queries times keys, and shares times values. A share is a power exp(score - max) of the
// softmax, rounded to bfloat16. Both products are computed in blocks of bfloat16; kernels.cc lists their cost. The
// scratch memory stores the scores of only one block at a time, so that the scores stay in the second-level cache.

#if defined(VMOE_CORE_TILE_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VMOE_CORE_TILE_ATTENTION_INL_H_
#undef VMOE_CORE_TILE_ATTENTION_INL_H_
#else
#define VMOE_CORE_TILE_ATTENTION_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/tile_block-inl.h"
#include "core/tile_kernels.h"
#include "core/tile_product-inl.h"
#include "core/vector_math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace vmoe {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Packs keys like weights, by transposing the keys' lines: [panel of 32 tokens][line].
template <size_t kGroupBytes>
HWY_ATTR void pack_keys(const TileHead& head, char* keys) {
  constexpr size_t kGroups = kLineBytes / sizeof(float);
  for (size_t token = 0; token < round_up(head.tokens, kPanelColumns); token += kRowsPerTile) {
    const size_t count = std::min(kRowsPerTile, head.tokens - std::min(token, head.tokens));
    for (size_t line = 0; line < head.lines; ++line) {
      char* tile = keys + (token / kPanelColumns * head.lines + line) * kPanelStepBytes +
                   token % kPanelColumns / kRowsPerTile * kTileBytes;
      if (count < kRowsPerTile) std::memset(tile, 0, kTileBytes);
      if (count == 0) continue;
      const char* from = head.k + line * head.line_stride + token * kLineBytes;
      if constexpr (kGroupBytes == sizeof(float)) {
        transpose(reinterpret_cast<const float*>(from), kGroups, kGroups, count, reinterpret_cast<float*>(tile),
                  kRowsPerTile);
      } else {
        for (size_t byte = 0; byte < count * kLineBytes; byte += kGroupBytes) {
          const size_t group = byte % kLineBytes / kGroupBytes, column = byte / kLineBytes;
          std::memcpy(tile + (group * kRowsPerTile + column) * kGroupBytes, from + byte, kGroupBytes);
        }
      }
    }
  }
}

// Interleaves the lines of the kTokens tokens of a group. The first 16 values of each line go to one line of the first
// tile at `to`, the other 16 values to one line of the second tile.
template <size_t kTokens>
HWY_ATTR void interleave_lines(const uint16_t* const (&lines)[kTokens], char* to) {
  const auto place = [to](size_t i) {
    return reinterpret_cast<uint16_t*>(to + i / kRowsPerTile * kTileBytes) + i % kRowsPerTile * kTokens;
  };
#if HWY_TARGET == HWY_SCALAR
  for (size_t i = 0; i < kPanelColumns; ++i) {
    for (size_t token = 0; token < kTokens; ++token) place(i)[token] = lines[token][i];
  }
#else
  const hn::FixedTag<uint16_t, 8> d;
  for (size_t i = 0; i < kPanelColumns; i += 8) {
    const auto load = [&](size_t token) HWY_ATTR { return hn::LoadU(d, lines[token] + i); };
    if constexpr (kTokens == 2) {
      hn::StoreU(hn::InterleaveLower(d, load(0), load(1)), d, place(i));
      hn::StoreU(hn::InterleaveUpper(d, load(0), load(1)), d, place(i) + 8);
    } else {
      hn::StoreInterleaved4(load(0), load(1), load(2), load(3), d, place(i));
    }
  }
#endif
}

// Packs values like weights: [line][step of 32 tokens]. The tokens of a group are side by side.
template <size_t kGroupBytes>
HWY_ATTR void pack_values(const TileHead& head, char* values) {
  constexpr size_t kTokens = kGroupBytes / sizeof(uint16_t);
  const size_t steps = divide_up(head.tokens, kPanelColumns);
  HWY_ALIGN static constexpr uint16_t kNoToken[kPanelColumns] = {};
  for (size_t line = 0; line < head.lines; ++line) {
    const auto* values_of_line = reinterpret_cast<const uint16_t*>(head.v + line * head.line_stride);
    for (size_t token = 0; token < steps * kPanelColumns; token += kTokens) {
      const uint16_t* lines[kTokens];
      for (size_t i = 0; i < kTokens; ++i) {
        lines[i] = token + i < head.tokens ? values_of_line + (token + i) * kPanelColumns : kNoToken;
      }
      char* step = values + (line * steps + token / kPanelColumns) * kPanelStepBytes;
      interleave_lines(lines, step + token % kPanelColumns * sizeof(uint16_t) * kRowsPerTile);
    }
  }
}

// Computes exp(scale * (score - max)) for each score of a row. If `added` is not null, it is first added to the scores.
// Stores the results as bfloat16 in lines that start kTileBytes apart, and returns their sum before rounding. `scores`
// consists of panels of 32 tokens. The panels start `stride` floats apart.
HWY_INLINE float softmax_to_lines(float* scores, size_t stride, size_t tokens, const float* added, float scale,
                                  char* line) {
  const FloatTag d;
  const size_t panels = divide_up(tokens, kPanelColumns);
  float* last = scores + (panels - 1) * stride;
  for (size_t i = tokens - (panels - 1) * kPanelColumns; i < kPanelColumns; ++i) {
    last[i] = -std::numeric_limits<float>::infinity();
  }
  constexpr size_t kVectors = kPanelColumns / kLanes;
  auto largest = hn::Set(d, -std::numeric_limits<float>::infinity());
  for (size_t panel = 0; panel < panels; ++panel) {
#pragma GCC unroll 8
    for (size_t v = 0; v < kVectors; ++v) {
      float* score = scores + panel * stride + v * kLanes;
      if (added != nullptr) {
        hn::Store(hn::Add(hn::Load(d, score), hn::LoadU(d, added + panel * kPanelColumns + v * kLanes)), d, score);
      }
      largest = hn::Max(largest, hn::Load(d, score));
    }
  }
  largest = hn::MaxOfLanes(d, largest);
  const auto slope = hn::Set(d, scale * 1.4426950408889634f);
  const auto highest = hn::Mul(largest, slope);
  auto sums = hn::Zero(d);
  for (size_t panel = 0; panel < panels; ++panel) {
    Floats powers[kVectors];
#pragma GCC unroll 8
    for (size_t v = 0; v < kVectors; ++v) {
      const auto score = hn::Load(d, scores + panel * stride + v * kLanes);
      powers[v] = exp2_of_score(hn::MulSub(score, slope, highest));
      sums = hn::Add(sums, powers[v]);
    }
    store_bf16_line(powers, line + panel * kTileBytes);
  }
  return hn::ReduceSum(d, sums);
}

template <class Block>
HWY_ATTR void attend(const TileHead& head) {
  const FloatTag d;
  const size_t panels = divide_up(head.tokens, kPanelColumns);
  const size_t row_tiles = divide_up(head.queries, kRowsPerTile);
  char* keys = head.scratch;
  char* values = keys + panels * head.lines * kPanelStepBytes;
  char* shares = values + panels * head.lines * kPanelStepBytes;
  auto* scores = reinterpret_cast<float*>(shares + kMostRowTiles * panels * kTileBytes);
  HWY_ALIGN float sums[kSumsOfBlock] = {};  // zero at first, because a narrow last line leaves some sums unwritten
  float total[kMostRowTiles * kRowsPerTile];
  constexpr size_t kGroup = Block::group_bytes(ElementType::kBfloat16);
  pack_keys<kGroup>(head, keys);
  pack_values<kGroup>(head, values);
  const float scale = 1.0f / std::sqrt(static_cast<float>(head.size));
  NothingBeside nothing;
  const size_t columns = head.size - (head.lines - 1) * kPanelColumns;  // of the last line
  for (size_t tile = 0; tile < row_tiles;) {
    const size_t count = row_tiles_of_block(row_tiles - tile);
    const size_t first_row = tile * kRowsPerTile;
    const size_t rows = std::min(count * kRowsPerTile, head.queries - first_row);
    TileOperand queries;
    queries.tiles = head.q + tile * kTileBytes;
    queries.row_tile_stride = kTileBytes;
    queries.step_stride = head.q_step_stride;
    queries.row_count = rows;
    queries.last_lines = divide_up(columns, 2);
    for (size_t panel = 0; panel < panels; ++panel) {
      multiply_block<Block, ElementType::kBfloat16>(count, queries, keys + panel * head.lines * kPanelStepBytes,
                                                    head.lines, scores + panel * kSumsOfBlock, nothing);
    }
    for (size_t row = 0; row < rows; ++row) {
      total[row] = softmax_to_lines(scores + row * kPanelColumns, kSumsOfBlock, head.tokens, head.added, scale,
                                    shares + line_offset(row, panels * kTileBytes));
    }
    TileOperand powers;
    powers.tiles = shares;
    powers.row_tile_stride = panels * kTileBytes;
    powers.step_stride = kTileBytes;
    powers.row_count = rows;
    for (size_t line = 0; line < head.lines; ++line) {
      powers.columns = line + 1 < head.lines ? kPanelColumns : columns;
      multiply_block<Block, ElementType::kBfloat16>(count, powers, values + line * panels * kPanelStepBytes, panels,
                                                    sums, nothing);
      for (size_t row = 0; row < rows; ++row) {
        const auto divisor = hn::Set(d, total[row]);
        Floats mixed[kPanelColumns / kLanes];
#pragma GCC unroll 8
        for (size_t v = 0; v < kPanelColumns / kLanes; ++v) {
          mixed[v] = hn::Div(hn::Load(d, sums + row * kPanelColumns + v * kLanes), divisor);
        }
        char* to = static_cast<char*>(head.out) + head.offset[first_row + row];
        if (head.out_lines) {
          store_bf16_line(mixed, to + line * head.out_line_stride);
          continue;
        }
        float* out = reinterpret_cast<float*>(to) + line * kPanelColumns;
        for (size_t v = 0; v < kPanelColumns / kLanes; ++v) {
          const size_t column = line * kPanelColumns + v * kLanes;
          if (column >= head.out_columns) break;
          const size_t left = std::min(kLanes, head.out_columns - column);
          hn::StoreN(mixed[v], d, out + v * kLanes, left);
        }
      }
    }
    tile += count;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace vmoe
HWY_AFTER_NAMESPACE();

#endif  // VMOE_CORE_TILE_ATTENTION_INL_H_
