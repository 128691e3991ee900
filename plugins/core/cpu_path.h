// Which instruction set the kernels use.
#pragma once

#include <string>
#include <vector>

#include "core/cpu_features.h"

namespace vmoe {

// kAmxEmulated computes what kAmx does, bit for bit, on machines without a matrix unit: slowly, to check it there.
// In the order of the names that cpu_path_name has.
enum class CpuPath { kScalar, kNeon, kAvx2, kAvx2Vnni, kAvx512, kAvx512Vnni, kAvx512Bf16, kAmx, kAmxEmulated };

// "scalar", "neon", "avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_bf16", "amx", "amx_emulated".
const char* cpu_path_name(CpuPath path);

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
