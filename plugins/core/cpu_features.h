// Finds the instruction sets that the kernels may use. The processor must support the instruction set, and the
// operating system must save its registers.
#pragma once

namespace vmoe {

struct CpuFeatures {
  bool amd = false;
  bool avx2 = false;      // AVX2 and also FMA, BMI, BMI2, F16C, AES and PCLMULQDQ
  bool avx_vnni = false;  // VNNI on 256-bit vectors
  bool avx512 = false;    // AVX-512 F, BW, CD, DQ, VL
  bool avx512_vnni = false;
  bool avx512_bf16 = false;  // AVX512_BF16 and also VBMI, VBMI2, BITALG, VPOPCNTDQ, GFNI, VAES, VPCLMULQDQ
  bool amx = false;          // AMX tiles with bfloat16 and int8
  // 64-bit ARM.
  bool dot_product = false;  // SDOT
  bool int8_matrix = false;  // SMMLA
  bool bf16_matrix = false;  // BFMMLA with its default rounding
};

// Returns the features of this processor. All are false on processors other than x86-64 and 64-bit ARM.
const CpuFeatures& get_cpu_features();

}  // namespace vmoe
