// CPU paths: the instruction sets that the kernels can use.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "core/cpu_features.h"

namespace vmoe {

// The order matches kCpuPathNames. The emulated paths compute the same bits as kAmx and kNeonBf16, but do not use
// their special instructions. Emulated paths are slow. They are meant only for checks on machines that lack these
// instructions.
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

// Returns the paths of this build that a processor with the features `has` can run. They are sorted from the fastest
// to the slowest, but emulated paths always come last.
std::vector<CpuPath> cpu_paths_of(const CpuFeatures& has);

// Returns whether this build contains `path` and whether this machine can run it.
bool cpu_path_supported(CpuPath path);

struct ChosenCpuPath {
  CpuPath path = CpuPath::kScalar;
  std::string error;  // an error message if VMOE_CPU_PATH names a path that can't run here; otherwise empty
};

// Returns the CPU path that this process uses. If the environment variable VMOE_CPU_PATH is set, this is the path that
// the variable specifies. Otherwise, it is the fastest supported path. The first call decides; later calls return the
// same result.
const ChosenCpuPath& chosen_cpu_path();

}  // namespace vmoe
