// Which instruction set the kernels use.
#pragma once

#include <string>

namespace vmoe {

enum class CpuPath { kScalar, kNeon, kAvx2, kAvx512, kAvx512Bf16 };

// "scalar", "neon", "avx2", "avx512", "avx512_bf16".
const char* CpuPathName(CpuPath path);

// Whether this build has the path and this machine can run it.
bool CpuPathSupported(CpuPath path);

// The path that this process uses: the best supported one, or the one that the environment variable VMOE_CPU_PATH
// names. False, with a sentence in `error`, if that variable names none that this machine has. Decided once.
bool ChosenCpuPath(CpuPath* path, std::string* error);

}  // namespace vmoe
