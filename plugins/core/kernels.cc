#include "core/kernels.h"

#include <algorithm>

// Few targets: each costs code size, and what they leave out is served by the next one down.
// Vectors of SVE have no size that a tile of them could have.
#define HWY_DISABLED_TARGETS                                                                                        \
  (HWY_SSE2 | HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_AVX3_SPR | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | \
   HWY_NEON_BF16)
#ifndef HWY_COMPILE_ONLY_SCALAR
#define HWY_COMPILE_ALL_ATTAINABLE
#endif
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/kernels.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h:
#include "core/kernels-inl.h"

#if HWY_ONCE

namespace vmoe {
namespace {

size_t padded_columns(const Kernels& kernels, size_t columns) {
  const size_t lanes = kernels.lanes;
  return (columns + lanes - 1) / lanes * lanes;
}

template <CpuPath kPath, Kernels (*kKernelsOf)(CpuPath)>
const Kernels& kernels_on_path() {
  static constexpr Kernels kKernels = kKernelsOf(kPath);
  return kKernels;
}

}  // namespace

size_t panel_elements(const Kernels& kernels, size_t depth, size_t columns) {
  return depth * padded_columns(kernels, columns);
}

void multiply_panel(const Kernels& kernels, const float* rows, size_t row_stride, size_t row_count, size_t depth,
                    const float* panel, size_t columns, float* out, size_t out_stride) {
  PanelProduct product;
  product.rows = rows;
  product.row_stride = row_stride;
  product.row_count = row_count;
  product.depth = depth;
  product.panel = panel;
  product.columns = columns;
  product.out = out;
  product.out_stride = out_stride;
  kernels.product_f32(product);
}

void pack_panel(const Kernels& kernels, const float* weights, size_t stride, size_t depth, size_t columns,
                float* packed) {
  const size_t padded = padded_columns(kernels, columns);
  for (size_t row = 0; row < depth; ++row) {
    std::copy_n(weights + row * stride, columns, packed + row * padded);
    std::fill(packed + row * padded + columns, packed + (row + 1) * padded, 0.0f);
  }
}

void pack_transposed_panel(const Kernels& kernels, const float* weights, size_t stride, size_t depth, size_t columns,
                           float* packed) {
  const size_t padded = padded_columns(kernels, columns);
  for (size_t row = 0; row < depth; ++row)
    std::fill(packed + row * padded + columns, packed + (row + 1) * padded, 0.0f);
  kernels.transpose(weights, stride, depth, columns, packed, padded);
}

const Kernels& kernels_for(CpuPath path) {
  switch (path) {
#if HWY_TARGETS & HWY_AVX2
    case CpuPath::kAvx2: return kernels_on_path<CpuPath::kAvx2, N_AVX2::kernels_of>();
    case CpuPath::kAvx2Vnni: return kernels_on_path<CpuPath::kAvx2Vnni, N_AVX2::kernels_of>();
#endif
#if HWY_TARGETS & HWY_AVX3
    case CpuPath::kAvx512: return kernels_on_path<CpuPath::kAvx512, N_AVX3::kernels_of>();
    case CpuPath::kAvx512Vnni: return kernels_on_path<CpuPath::kAvx512Vnni, N_AVX3::kernels_of>();
#endif
#if HWY_TARGETS & HWY_AVX3_ZEN4
    case CpuPath::kAvx512Bf16: return kernels_on_path<CpuPath::kAvx512Bf16, N_AVX3_ZEN4::kernels_of>();
    case CpuPath::kAmx: return kernels_on_path<CpuPath::kAmx, N_AVX3_ZEN4::kernels_of>();
    case CpuPath::kAmxEmulated: return kernels_on_path<CpuPath::kAmxEmulated, N_AVX3_ZEN4::kernels_of>();
#endif
#if HWY_TARGETS & HWY_NEON
    case CpuPath::kNeon: return kernels_on_path<CpuPath::kNeon, N_NEON::kernels_of>();
#elif HWY_TARGETS & HWY_NEON_WITHOUT_AES
    case CpuPath::kNeon: return kernels_on_path<CpuPath::kNeon, N_NEON_WITHOUT_AES::kernels_of>();
#endif
    default: break;
  }
#if HWY_TARGETS & HWY_EMU128
  return kernels_on_path<CpuPath::kScalar, N_EMU128::kernels_of>();
#else
  return kernels_on_path<CpuPath::kScalar, N_SCALAR::kernels_of>();
#endif
}

}  // namespace vmoe

#endif  // HWY_ONCE
