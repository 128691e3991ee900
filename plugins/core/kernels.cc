#include "core/kernels.h"

#include <algorithm>

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

size_t PaddedColumns(const Kernels& kernels, size_t columns) {
  const size_t lanes = kernels.lanes;
  return (columns + lanes - 1) / lanes * lanes;
}

template <CpuPath kPath, Kernels (*kKernelsOf)(CpuPath)>
const Kernels& KernelsOnPath() {
  static constexpr Kernels kKernels = kKernelsOf(kPath);
  return kKernels;
}

}  // namespace

size_t PanelElements(const Kernels& kernels, size_t depth, size_t columns) {
  return depth * PaddedColumns(kernels, columns);
}

void PackPanel(const Kernels& kernels, const float* weights, size_t stride, size_t depth, size_t columns,
               float* packed) {
  const size_t padded = PaddedColumns(kernels, columns);
  for (size_t row = 0; row < depth; ++row) {
    std::copy_n(weights + row * stride, columns, packed + row * padded);
    std::fill(packed + row * padded + columns, packed + (row + 1) * padded, 0.0f);
  }
}

void PackTransposedPanel(const Kernels& kernels, const float* weights, size_t stride, size_t depth, size_t columns,
                         float* packed) {
  const size_t padded = PaddedColumns(kernels, columns);
  for (size_t row = 0; row < depth; ++row)
    std::fill(packed + row * padded + columns, packed + (row + 1) * padded, 0.0f);
  kernels.transpose(weights, stride, depth, columns, packed, padded);
}

const Kernels& KernelsFor(CpuPath path) {
  switch (path) {
#if HWY_TARGETS & HWY_AVX2
    case CpuPath::kAvx2: return KernelsOnPath<CpuPath::kAvx2, N_AVX2::KernelsOf>();
    case CpuPath::kAvx2Vnni: return KernelsOnPath<CpuPath::kAvx2Vnni, N_AVX2::KernelsOf>();
#endif
#if HWY_TARGETS & HWY_AVX3
    case CpuPath::kAvx512: return KernelsOnPath<CpuPath::kAvx512, N_AVX3::KernelsOf>();
    case CpuPath::kAvx512Vnni: return KernelsOnPath<CpuPath::kAvx512Vnni, N_AVX3::KernelsOf>();
#endif
#if HWY_TARGETS & HWY_AVX3_ZEN4
    case CpuPath::kAvx512Bf16: return KernelsOnPath<CpuPath::kAvx512Bf16, N_AVX3_ZEN4::KernelsOf>();
    case CpuPath::kAmx: return KernelsOnPath<CpuPath::kAmx, N_AVX3_ZEN4::KernelsOf>();
    case CpuPath::kAmxEmulated: return KernelsOnPath<CpuPath::kAmxEmulated, N_AVX3_ZEN4::KernelsOf>();
#endif
#if HWY_TARGETS & HWY_NEON
    case CpuPath::kNeon: return KernelsOnPath<CpuPath::kNeon, N_NEON::KernelsOf>();
#elif HWY_TARGETS & HWY_NEON_WITHOUT_AES
    case CpuPath::kNeon: return KernelsOnPath<CpuPath::kNeon, N_NEON_WITHOUT_AES::KernelsOf>();
#endif
    default: break;
  }
#if HWY_TARGETS & HWY_EMU128
  return KernelsOnPath<CpuPath::kScalar, N_EMU128::KernelsOf>();
#else
  return KernelsOnPath<CpuPath::kScalar, N_SCALAR::KernelsOf>();
#endif
}

}  // namespace vmoe

#endif  // HWY_ONCE
