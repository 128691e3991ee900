// Which instruction set the kernels use.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "core/cpu_features.h"

namespace vmoe {

// The emulated ones compute what kAmx and kNeonBf16 do, bit for bit, on machines without such instructions: slowly, to
// check it there. In the order of kCpuPathNames.
enum class CpuPath {
  kScalar,
  kNeon,
  kNeonDot,
  kNeonI8mm,
  kNeonBf16,
  kNeonBf16Emulated,
  kAvx2,
  kAvx2Vnni,
  kAvx512,
  kAvx512Vnni,
  kAvx512Bf16,
  kAmx,
  kAmxEmulated
};

inline constexpr const char* kCpuPathNames[] = {
    "scalar",    "neon",   "neon_dot",    "neon_i8mm",   "neon_bf16", "neon_bf16_emulated", "avx2",
    "avx2_vnni", "avx512", "avx512_vnni", "avx512_bf16", "amx",       "amx_emulated"};

constexpr const char* cpu_path_name(CpuPath path) { return kCpuPathNames[static_cast<size_t>(path)]; }

// The paths of this build that a processor can run, the best first.
std::vector<CpuPath> cpu_paths_of(const CpuFeatures& has);

// Whether this build has the path and this machine can run it.
bool cpu_path_supported(CpuPath path);

struct ChosenCpuPath {
  CpuPath path = CpuPath::kScalar;
  std::string error;  // a sentence where the environment variable VMOE_CPU_PATH names none that this machine has
};

// The path that this process uses: the best supported one, or the one that VMOE_CPU_PATH names. Decided once.
const ChosenCpuPath& chosen_cpu_path();

}  // namespace vmoe
