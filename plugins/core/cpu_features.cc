#include "core/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>

#include <cstdint>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>

#include <cstdint>
#endif

namespace vmoe {
namespace {

#if defined(__x86_64__)
struct Registers {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers read_leaf(uint32_t leaf, uint32_t subleaf = 0) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

bool has_all(uint32_t bits, std::initializer_list<int> numbers) {
  return std::all_of(numbers.begin(), numbers.end(), [&](int number) { return (bits >> number & 1) != 0; });
}

// Returns a bit mask of the register states that the operating system saves. This function is written in assembly,
// because the compiler's intrinsic requires a compiler option.
uint64_t saved_states() {
  uint32_t low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

CpuFeatures detect() {
  CpuFeatures has;
  const Registers vendor = read_leaf(0);
  has.amd = vendor.ebx == 0x68747541 && vendor.edx == 0x69746e65 && vendor.ecx == 0x444d4163;  // "AuthenticAMD"
  const Registers one = read_leaf(1);
  if (!has_all(one.ecx, {27})) return has;  // OSXSAVE
  const uint64_t saved = saved_states();
  const bool saves_avx = (saved & 0x6) == 0x6;
  const bool saves_avx512 = (saved & 0xe6) == 0xe6;
  const bool saves_tiles = (saved & 0x60000) == 0x60000;
  const Registers seven = read_leaf(7);
  const Registers more = read_leaf(7, 1);
  // Highway's targets are compiled with all of these features. Check each feature, because a virtual machine may hide
  // any of them.
  has.avx2 = saves_avx && has_all(one.ecx, {0, 1, 9, 19, 20, 25}) &&  // SSE3, PCLMULQDQ, SSSE3, SSE4.1, SSE4.2, AES
             has_all(one.ecx, {12, 28, 29}) &&                        // FMA, AVX, F16C
             has_all(seven.ebx, {3, 5, 8});                           // BMI, AVX2, BMI2
  has.avx_vnni = has.avx2 && has_all(more.eax, {4});
  has.avx512 = has.avx2 && saves_avx512 && has_all(seven.ebx, {16, 17, 28, 30, 31});  // AVX-512 F, DQ, CD, BW, VL
  has.avx512_vnni = has.avx512 && has_all(seven.ecx, {11});
  has.avx512_bf16 =
      has.avx512_vnni && has_all(more.eax, {5}) &&
      has_all(seven.ecx, {1, 6, 8, 9, 10, 12, 14});  // VBMI, VBMI2, GFNI, VAES, VPCLMULQDQ, BITALG, VPOPCNTDQ
  has.amx = has.avx512_bf16 && saves_tiles && has_all(seven.edx, {22, 24, 25});  // bfloat16, tiles, int8
  return has;
}
#elif defined(__aarch64__)
// Returns whether BFMMLA uses its default rounding mode. A process may choose the extended mode instead.
bool rounds_bf16_plainly() {
  uint64_t control;
  asm volatile("mrs %0, fpcr" : "=r"(control));
  return (control >> 13 & 1) == 0;  // EBF
}

#if defined(__APPLE__)
bool has(const char* feature) {
  int32_t value = 0;
  size_t bytes = sizeof(value);
  return sysctlbyname(feature, &value, &bytes, nullptr, 0) == 0 && value != 0;
}
CpuFeatures detect() {
  CpuFeatures has_them;
  has_them.dot_product = has("hw.optional.arm.FEAT_DotProd");
  has_them.int8_matrix = has("hw.optional.arm.FEAT_I8MM");
  has_them.bf16_matrix = has("hw.optional.arm.FEAT_BF16") && rounds_bf16_plainly();
  return has_them;
}
#else
CpuFeatures detect() {
  const uint64_t first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
  CpuFeatures has;
  has.dot_product = (first & HWCAP_ASIMDDP) != 0;
  has.int8_matrix = (second & HWCAP2_I8MM) != 0;
  has.bf16_matrix = (second & HWCAP2_BF16) != 0 && rounds_bf16_plainly();
  return has;
}
#endif
#else
CpuFeatures detect() { return {}; }
#endif

}  // namespace

const CpuFeatures& get_cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

}  // namespace vmoe
