#include "core/cpu_features.h"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace vmoe {
namespace {

#if defined(__x86_64__)
struct Registers {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers Leaf(uint32_t leaf, uint32_t subleaf = 0) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

constexpr bool Bit(uint32_t bits, int bit) { return (bits >> bit & 1) != 0; }

// Which register states the operating system saves. As an instruction: the intrinsic asks for a compiler option.
uint64_t SavedStates() {
  uint32_t low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

CpuFeatures Detect() {
  CpuFeatures has;
  const Registers vendor = Leaf(0);
  has.amd = vendor.ebx == 0x68747541 && vendor.edx == 0x69746e65 && vendor.ecx == 0x444d4163;  // "AuthenticAMD"
  const Registers one = Leaf(1);
  if (!Bit(one.ecx, 27)) return has;  // OSXSAVE
  const uint64_t saved = SavedStates();
  const bool saves_avx = (saved & 0x6) == 0x6;
  const bool saves_avx512 = (saved & 0xe6) == 0xe6;
  const bool saves_tiles = (saved & 0x60000) == 0x60000;
  const Registers seven = Leaf(7);
  const Registers more = Leaf(7, 1);
  has.avx2 = saves_avx && Bit(seven.ebx, 5) && Bit(seven.ebx, 8) && Bit(one.ecx, 12);
  has.avx_vnni = has.avx2 && Bit(more.eax, 4);
  has.avx512 = has.avx2 && saves_avx512 && Bit(seven.ebx, 16) && Bit(seven.ebx, 17) && Bit(seven.ebx, 28) &&
               Bit(seven.ebx, 30) && Bit(seven.ebx, 31);
  has.avx512_vnni = has.avx512 && Bit(seven.ecx, 11);
  has.avx512_bf16 = has.avx512_vnni && Bit(more.eax, 5) && Bit(seven.ecx, 6) && Bit(seven.ecx, 8) &&
                    Bit(seven.ecx, 10) && Bit(seven.ecx, 12) && Bit(seven.ecx, 14);
  has.amx = has.avx512_bf16 && saves_tiles && Bit(seven.edx, 22) && Bit(seven.edx, 24) && Bit(seven.edx, 25);
  return has;
}
#else
CpuFeatures Detect() { return {}; }
#endif

}  // namespace

const CpuFeatures& GetCpuFeatures() {
  static const CpuFeatures features = Detect();
  return features;
}

}  // namespace vmoe
