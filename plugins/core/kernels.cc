// The kernels of each CPU path.
//
// The table lists their speed in multiply-adds per ns, for an MLP 768 -> 3072 -> 768 on one thread of a Zen 4 server
// (commit 722d4896). Each cell has two numbers. The first is for 416 rows of one expert. The second is for one row of
// each of 12 experts; their weights come from memory. The numbers are medians of four runs on a busy machine; single
// runs differ from them by up to 25 %.
//
// | path | float32 | bfloat16 | int8 | int4 |
// |---|---|---|---|---|
// | avx512_bf16 | 50; 4.6 | 96; 7.0 | 165; 14 | 160; 26 |
// | avx512_vnni | 52; 5.5 | 47; 7.8 | 152; 12 | 152; 23 |
// | avx512 | 50; 5.1 | 47; 8.2 | 66; 12 | 96; 29 |
// | avx2 | 41; 5.0 | 38; 7.0 | 45; 13 | 68; 23 |
//
// Three kinds of paths were not measured: avx2_vnni, because no such processor was available; scalar, which is the
// fallback; and the emulated paths, which are only for checks. For amx, see matrix_unit_block-inl.h; for the ARM paths,
// see neon_block-inl.h.
#include "core/kernels.h"

#include <algorithm>

// Only a few targets are compiled, because each one adds code. If a processor's best target is disabled, the processor
// uses the next lower target. SVE is disabled because its vectors have no fixed size, which the tiles require.
#define HWY_DISABLED_TARGETS                                                                                        \
  (HWY_SSE2 | HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_AVX3_SPR | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | \
   HWY_NEON | HWY_NEON_BF16)
#ifndef HWY_COMPILE_ONLY_SCALAR
#define HWY_COMPILE_ALL_ATTAINABLE
#endif
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/kernels.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h:
#include "core/kernels-inl.h"
#include "core/matrix_unit_block-inl.h"
#include "core/merging-inl.h"
#include "core/neon_block-inl.h"
#include "core/rotation-inl.h"
#include "core/tile_attention-inl.h"
#include "core/tile_product-inl.h"
#include "core/tile_rows-inl.h"
#include "core/vector_block-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vmoe {
namespace HWY_NAMESPACE {

template <class Block>
constexpr Kernels kernels_of(CpuPath path) {
  Kernels kernels{};
  kernels.path = path;
  kernels.lanes = kLanes;
  kernels.panel_columns = kTileVectors * kLanes;
  kernels.tile_rows = kTileRows;
  kernels.product_f32 = product_float32;
  kernels.transpose = transpose;
  kernels.softmax = softmax<false>;
  kernels.gate_softmax = softmax<true>;
  kernels.attention_softmax = attention_softmax;
  kernels.round_bf16 = round_row;
  kernels.normalize = normalize_row;
  kernels.angles_to_table = angles_to_table;
  kernels.rotate_row = rotate_row;
  kernels.unit_keys = unit_keys;
  kernels.largest_score = largest_score;
  kernels.multiply_to_float_rows = multiply_to_float_rows<Block>;
  kernels.multiply_to_hidden_rows = multiply_to_hidden_rows<Block>;
  kernels.multiply_to_hidden_lines = multiply_to_hidden_lines<Block>;
  kernels.multiply_to_head_lines = multiply_to_head_lines<Block>;
  kernels.pack_rows = pack_rows<Block>;
  kernels.attend = attend<Block>;
  kernels.needs_tile_configuration = Block::kNeedsTileConfiguration;
  kernels.unsigned_rows = Block::kUnsignedRows;
  kernels.group_bytes = Block::group_bytes;
  return kernels;
}

#if HWY_TARGET == HWY_AVX3_ZEN4
constexpr Kernels kAmxKernels = kernels_of<MatrixUnitBlock<HardwareTiles>>(CpuPath::kAmx);
constexpr Kernels kAmxEmulatedKernels = kernels_of<MatrixUnitBlock<EmulatedTiles>>(CpuPath::kAmxEmulated);
constexpr Kernels kAvx512Bf16Kernels = kernels_of<VectorBlock<NativeBf16, VnniInt8>>(CpuPath::kAvx512Bf16);
#elif HWY_TARGET == HWY_AVX3
constexpr Kernels kAvx512VnniKernels = kernels_of<VectorBlock<WidenedBf16, VnniInt8>>(CpuPath::kAvx512Vnni);
constexpr Kernels kAvx512Kernels = kernels_of<VectorBlock<WidenedBf16, PortableInt8>>(CpuPath::kAvx512);
#elif HWY_TARGET == HWY_AVX2
constexpr Kernels kAvx2VnniKernels = kernels_of<VectorBlock<WidenedBf16, VnniInt8>>(CpuPath::kAvx2Vnni);
constexpr Kernels kAvx2Kernels = kernels_of<VectorBlock<WidenedBf16, PortableInt8>>(CpuPath::kAvx2);
#elif HWY_TARGET == HWY_NEON_WITHOUT_AES
using WideBf16 = Dots<FloatProduct>;
using Int8Matrices = SmallMatrices<SignedMatrix>;
constexpr Kernels kNeonKernels = kernels_of<NeonBlock<WideBf16, PortableInt8>>(CpuPath::kNeon);
constexpr Kernels kNeonDotKernels = kernels_of<NeonBlock<WideBf16, Dots<SignedDot>>>(CpuPath::kNeonDot);
constexpr Kernels kNeonI8mmKernels = kernels_of<NeonBlock<WideBf16, Int8Matrices>>(CpuPath::kNeonI8mm);
constexpr Kernels kNeonBf16Kernels = kernels_of<NeonBlock<SmallMatrices<Bf16Matrix>, Int8Matrices>>(CpuPath::kNeonBf16);
constexpr Kernels kNeonBf16EmulatedKernels =
    kernels_of<NeonBlock<SmallMatrices<EmulatedBf16Matrix>, PortableInt8>>(CpuPath::kNeonBf16Emulated);
#else
constexpr Kernels kScalarKernels = kernels_of<VectorBlock<WidenedBf16, PortableInt8>>(CpuPath::kScalar);
#endif

}  // namespace HWY_NAMESPACE
}  // namespace vmoe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace vmoe {

size_t panel_elements(const Kernels& kernels, size_t depth, size_t columns) {
  return depth * round_up(columns, kernels.lanes);
}

size_t packed_elements(const Kernels& kernels, size_t depth, size_t columns) {
  return panel_elements(kernels, depth, kernels.panel_columns) * (columns / kernels.panel_columns) +
         panel_elements(kernels, depth, columns % kernels.panel_columns);
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
  const size_t padded = round_up(columns, kernels.lanes);
  for (size_t row = 0; row < depth; ++row) {
    std::copy_n(weights + row * stride, columns, packed + row * padded);
    std::fill(packed + row * padded + columns, packed + (row + 1) * padded, 0.0f);
  }
}

void pack_transposed_panel(const Kernels& kernels, const float* weights, size_t stride, size_t depth, size_t columns,
                           float* packed) {
  const size_t padded = round_up(columns, kernels.lanes);
  for (size_t row = 0; row < depth; ++row)
    std::fill(packed + row * padded + columns, packed + (row + 1) * padded, 0.0f);
  kernels.transpose(weights, stride, depth, columns, packed, padded);
}

size_t tile_head_bytes(size_t tokens, size_t lines) {
  // The terms are in the order in which `attend` places a head's data in the scratch memory: keys, values, shares, and
  // scores. Shares are the rounded powers of the softmax.
  constexpr size_t kMostRowTiles = 3;
  const size_t panels = divide_up(tokens, kPanelColumns);
  return panels * (2 * lines * kPanelStepBytes + kMostRowTiles * kTileBytes +
                   kMostRowTiles * kRowsPerTile * kPanelColumns * sizeof(float));
}

const Kernels& kernels_for(CpuPath path) {
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
#if HWY_TARGETS & HWY_NEON_WITHOUT_AES
    case CpuPath::kNeon: return N_NEON_WITHOUT_AES::kNeonKernels;
    case CpuPath::kNeonDot: return N_NEON_WITHOUT_AES::kNeonDotKernels;
    case CpuPath::kNeonI8mm: return N_NEON_WITHOUT_AES::kNeonI8mmKernels;
    case CpuPath::kNeonBf16: return N_NEON_WITHOUT_AES::kNeonBf16Kernels;
    case CpuPath::kNeonBf16Emulated: return N_NEON_WITHOUT_AES::kNeonBf16EmulatedKernels;
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
