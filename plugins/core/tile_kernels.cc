#include "core/tile_kernels.h"

// As in kernels.cc: few targets, since each costs code size.
#define HWY_DISABLED_TARGETS                                                                                        \
  (HWY_SSE2 | HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_AVX3_SPR | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | \
   HWY_NEON_BF16)
#ifndef HWY_COMPILE_ONLY_SCALAR
#define HWY_COMPILE_ALL_ATTAINABLE
#endif
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/tile_kernels.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h:
#include "core/matrix_unit_block-inl.h"
#include "core/tile_attention-inl.h"
#include "core/tile_product-inl.h"
#include "core/tile_rows-inl.h"
#include "core/vector_block-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vmoe {
namespace HWY_NAMESPACE {

template <class Block>
constexpr TileKernels kernels_of(CpuPath path, bool needs_tile_configuration = false) {
  return {path,          multiply_tiles<Block>,    pack_rows<Block>,    attend<Block>,
          normalize_row, needs_tile_configuration, Block::kUnsignedRows};
}

#if HWY_TARGET == HWY_AVX3_ZEN4
constexpr TileKernels kAmxKernels = kernels_of<MatrixUnitBlock<HardwareTiles>>(CpuPath::kAmx, true);
constexpr TileKernels kAmxEmulatedKernels = kernels_of<MatrixUnitBlock<EmulatedTiles>>(CpuPath::kAmxEmulated);
constexpr TileKernels kAvx512Bf16Kernels = kernels_of<VectorBlock<NativeBf16, VnniInt8>>(CpuPath::kAvx512Bf16);
#elif HWY_TARGET == HWY_AVX3
constexpr TileKernels kAvx512VnniKernels = kernels_of<VectorBlock<WidenedBf16, VnniInt8>>(CpuPath::kAvx512Vnni);
constexpr TileKernels kAvx512Kernels = kernels_of<VectorBlock<WidenedBf16, PortableInt8>>(CpuPath::kAvx512);
#elif HWY_TARGET == HWY_AVX2
constexpr TileKernels kAvx2VnniKernels = kernels_of<VectorBlock<WidenedBf16, VnniInt8>>(CpuPath::kAvx2Vnni);
constexpr TileKernels kAvx2Kernels = kernels_of<VectorBlock<WidenedBf16, PortableInt8>>(CpuPath::kAvx2);
#elif HWY_TARGET == HWY_NEON || HWY_TARGET == HWY_NEON_WITHOUT_AES
constexpr TileKernels kNeonKernels = kernels_of<VectorBlock<WidenedBf16, PortableInt8>>(CpuPath::kNeon);
#else
constexpr TileKernels kScalarKernels = kernels_of<VectorBlock<WidenedBf16, PortableInt8>>(CpuPath::kScalar);
#endif

}  // namespace HWY_NAMESPACE
}  // namespace vmoe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace vmoe {

size_t tile_head_bytes(size_t tokens, size_t lines) {
  // Keys, values, shares and scores of one head, as attend places them.
  constexpr size_t kMostRowTiles = 3;
  const size_t panels = divide_up(tokens, kPanelColumns);
  return panels * (2 * lines * kPanelStepBytes + kMostRowTiles * kTileBytes +
                   kMostRowTiles * kRowsPerTile * kPanelColumns * sizeof(float));
}

const TileKernels& tile_kernels_for(CpuPath path) {
  switch (path) {
#if HWY_TARGETS & HWY_AVX2
    case CpuPath::kAvx2: return N_AVX2::kAvx2Kernels;
    case CpuPath::kAvx2Vnni: return N_AVX2::kAvx2VnniKernels;
#endif
#if HWY_TARGETS & HWY_AVX3
    case CpuPath::kAvx512: return N_AVX3::kAvx512Kernels;
    case CpuPath::kAvx512Vnni: return N_AVX3::kAvx512VnniKernels;
#endif
#if HWY_TARGETS & HWY_AVX3_ZEN4
    case CpuPath::kAvx512Bf16: return N_AVX3_ZEN4::kAvx512Bf16Kernels;
    case CpuPath::kAmx: return N_AVX3_ZEN4::kAmxKernels;
    case CpuPath::kAmxEmulated: return N_AVX3_ZEN4::kAmxEmulatedKernels;
#endif
#if HWY_TARGETS & HWY_NEON
    case CpuPath::kNeon: return N_NEON::kNeonKernels;
#elif HWY_TARGETS & HWY_NEON_WITHOUT_AES
    case CpuPath::kNeon: return N_NEON_WITHOUT_AES::kNeonKernels;
#endif
    default: break;
  }
#if HWY_TARGETS & HWY_EMU128
  return N_EMU128::kScalarKernels;
#else
  return N_SCALAR::kScalarKernels;
#endif
}

}  // namespace vmoe

#endif  // HWY_ONCE
