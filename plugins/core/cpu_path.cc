#include "core/cpu_path.h"

#include <cstdlib>
#include <string>

namespace vmoe {
namespace {

constexpr CpuPath kBestFirst[] = {CpuPath::kAvx512Bf16, CpuPath::kAvx512, CpuPath::kAvx2, CpuPath::kNeon,
                                  CpuPath::kScalar};

struct Choice {
  CpuPath path = CpuPath::kScalar;
  std::string error;
};

Choice Choose() {
  const char* forced = std::getenv("VMOE_CPU_PATH");
  std::string supported;
  for (CpuPath path : kBestFirst) {
    if (!CpuPathSupported(path)) continue;
    if (forced == nullptr || *forced == '\0' || std::string(forced) == CpuPathName(path)) return {path, ""};
    supported += (supported.empty() ? "" : ", ") + std::string(CpuPathName(path));
  }
  return {CpuPath::kScalar,
          "VMOE_CPU_PATH is '" + std::string(forced).substr(0, 40) + "'; this machine has " + supported};
}

}  // namespace

const char* CpuPathName(CpuPath path) {
  switch (path) {
    case CpuPath::kScalar: return "scalar";
    case CpuPath::kNeon: return "neon";
    case CpuPath::kAvx2: return "avx2";
    case CpuPath::kAvx512: return "avx512";
    case CpuPath::kAvx512Bf16: return "avx512_bf16";
  }
  return "";
}

bool CpuPathSupported(CpuPath path) {
  switch (path) {
    case CpuPath::kScalar: return true;
#if defined(__x86_64__)
    case CpuPath::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    case CpuPath::kAvx512:
      return CpuPathSupported(CpuPath::kAvx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    case CpuPath::kAvx512Bf16:
      return CpuPathSupported(CpuPath::kAvx512) && __builtin_cpu_supports("avx512bf16") &&
             __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512vnni") &&
             __builtin_cpu_supports("avx512bitalg") && __builtin_cpu_supports("avx512vpopcntdq") &&
             __builtin_cpu_supports("gfni") && __builtin_cpu_supports("vpclmulqdq");
#elif defined(__aarch64__)
    case CpuPath::kNeon: return true;
#endif
    default: return false;
  }
}

bool ChosenCpuPath(CpuPath* path, std::string* error) {
  static const Choice choice = Choose();
  *path = choice.path;
  *error = choice.error;
  return choice.error.empty();
}

}  // namespace vmoe
