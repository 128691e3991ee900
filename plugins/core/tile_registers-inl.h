// Tile registers, each of 16 lines of 64 bytes: the processor's, and the same in plain C++. kernels.cc compiles
// this file once per instruction set.

#if defined(VMOE_CORE_TILE_REGISTERS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VMOE_CORE_TILE_REGISTERS_INL_H_
#undef VMOE_CORE_TILE_REGISTERS_INL_H_
#else
#define VMOE_CORE_TILE_REGISTERS_INL_H_
#endif

#include <cstring>

#include "core/bfloat16.h"
#include "core/element_type.h"
#include "core/tiles.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace vmoe {
namespace HWY_NAMESPACE {

#if defined(__x86_64__)
// The processor's tile registers, as instructions, so that no compiler needs to know them.
struct HardwareTiles {
  template <int kTile>
  HWY_INLINE void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  // Through the second-level cache, leaving the first one to what is written.
  template <int kTile>
  HWY_INLINE void load(const char* from) {
    asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(kLineBytes), "i"(kTile));
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
};
#endif

// The same in plain C++, bit for bit: for machines that have no tile registers.
class EmulatedTiles {
 public:
  template <int kTile>
  void zero() {
    std::memset(tiles_[kTile], 0, kTileBytes);
  }
  template <int kTile>
  void load(const char* from) {
    std::memcpy(tiles_[kTile], from, kTileBytes);
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

 private:
  char tiles_[8][kRowsPerTile][kLineBytes];

  // Subnormal numbers count as zero, going in and coming out.
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

  // Even and odd places of the depth are added up apart, each product with one rounding; then both, then to the sum.
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

}  // namespace HWY_NAMESPACE
}  // namespace vmoe
HWY_AFTER_NAMESPACE();

#endif  // VMOE_CORE_TILE_REGISTERS_INL_H_
