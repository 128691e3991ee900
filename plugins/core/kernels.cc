#include "core/kernels.h"

#include <algorithm>
#include <type_traits>

// Few targets: each costs code size, and what they leave out is served by the next one down.
// Vectors of SVE have no size that a tile of them could have.
#define HWY_DISABLED_TARGETS                                                                                        \
  (HWY_SSE2 | HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_AVX3_SPR | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | \
   HWY_NEON_BF16)
#define HWY_COMPILE_ALL_ATTAINABLE
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/kernels.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h:
#include "core/kernels-inl.h"

#if HWY_ONCE

namespace vmoe {
namespace {

// Rows of weights that stand side by side in a panel.
template <class T>
constexpr size_t kInterleave = std::is_same_v<T, Bf16> ? 2 : 1;

size_t PaddedColumns(const Kernels& kernels, size_t columns) {
  const size_t lanes = kernels.lanes;
  return (columns + lanes - 1) / lanes * lanes;
}

// Calls visit(row, column, place in the panel) for each weight.
template <class T, class Visit>
bool ForEachPlace(const Kernels& kernels, size_t depth, size_t columns, Visit&& visit) {
  const size_t padded = PaddedColumns(kernels, columns);
  for (size_t row = 0; row < depth; ++row) {
    const size_t base = row / kInterleave<T> * padded * kInterleave<T> + row % kInterleave<T>;
    for (size_t column = 0; column < columns; ++column) {
      if (!visit(row, column, base + column * kInterleave<T>)) return false;
    }
  }
  return true;
}

template <class T>
void Pack(const Kernels& kernels, const T* weights, size_t stride, size_t depth, size_t columns, T* packed) {
  if (columns % kernels.lanes != 0 || depth % kInterleave<T> != 0) {
    const size_t elements = PanelElements(kernels, depth, columns, sizeof(T) == sizeof(Bf16));
    for (size_t i = 0; i < elements; ++i) packed[i] = T{0};
  }
  ForEachPlace<T>(kernels, depth, columns, [&](size_t row, size_t column, size_t place) {
    packed[place] = weights[row * stride + column];
    return true;
  });
}

template <class T>
bool Holds(const Kernels& kernels, const T* weights, size_t stride, size_t depth, size_t columns, const T* packed) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>;
  const auto* have = reinterpret_cast<const Bits*>(packed);
  const auto* want = reinterpret_cast<const Bits*>(weights);
  return ForEachPlace<T>(kernels, depth, columns, [&](size_t row, size_t column, size_t place) {
    return have[place] == want[row * stride + column];
  });
}

}  // namespace

size_t PanelElements(const Kernels& kernels, size_t depth, size_t columns, bool bf16) {
  return (bf16 ? (depth + 1) / 2 * 2 : depth) * PaddedColumns(kernels, columns);
}

void PackPanel(const Kernels& kernels, const float* weights, size_t stride, size_t depth, size_t columns,
               float* packed) {
  Pack(kernels, weights, stride, depth, columns, packed);
}

void PackPanel(const Kernels& kernels, const Bf16* weights, size_t stride, size_t depth, size_t columns, Bf16* packed) {
  Pack(kernels, weights, stride, depth, columns, packed);
}

void PackTransposedPanel(const Kernels& kernels, const float* weights, size_t stride, size_t depth, size_t columns,
                         float* packed) {
  const size_t padded = PaddedColumns(kernels, columns);
  for (size_t row = 0; row < depth; ++row)
    std::fill(packed + row * padded + columns, packed + (row + 1) * padded, 0.0f);
  kernels.transpose(weights, stride, depth, columns, packed, padded);
}

bool PanelHolds(const Kernels& kernels, const float* weights, size_t stride, size_t depth, size_t columns,
                const float* packed) {
  return Holds(kernels, weights, stride, depth, columns, packed);
}

bool PanelHolds(const Kernels& kernels, const Bf16* weights, size_t stride, size_t depth, size_t columns,
                const Bf16* packed) {
  return Holds(kernels, weights, stride, depth, columns, packed);
}

const Kernels& KernelsFor(CpuPath path) {
  switch (path) {
#if HWY_TARGETS & HWY_AVX2
    case CpuPath::kAvx2: return N_AVX2::kKernels;
#endif
#if HWY_TARGETS & HWY_AVX3
    case CpuPath::kAvx512: return N_AVX3::kKernels;
#endif
#if HWY_TARGETS & HWY_AVX3_ZEN4
    case CpuPath::kAvx512Bf16: return N_AVX3_ZEN4::kKernels;
#endif
#if HWY_TARGETS & HWY_NEON
    case CpuPath::kNeon: return N_NEON::kKernels;
#elif HWY_TARGETS & HWY_NEON_WITHOUT_AES
    case CpuPath::kNeon: return N_NEON_WITHOUT_AES::kKernels;
#endif
    default: break;
  }
#if HWY_TARGETS & HWY_EMU128
  return N_EMU128::kKernels;
#else
  return N_SCALAR::kKernels;
#endif
}

}  // namespace vmoe

#endif  // HWY_ONCE
