#include "core/cpu_path.h"

#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "core/amx.h"
#include "core/cpu_features.h"

namespace vmoe {
namespace {

// In the order in which they are preferred. Intel's instructions for bfloat16 products, which came before its matrix
// unit, take twice as long as widening to float32; AMD's take half as long.
std::vector<CpuPath> BestFirst() {
  std::vector<CpuPath> paths = {CpuPath::kAmx,    CpuPath::kAvx512Vnni, CpuPath::kAvx512Bf16,
                                CpuPath::kAvx512, CpuPath::kAvx2Vnni,   CpuPath::kAvx2,
                                CpuPath::kNeon,   CpuPath::kScalar,     CpuPath::kAmxEmulated};
  if (GetCpuFeatures().amd) std::swap(paths[1], paths[2]);
  return paths;
}

struct Choice {
  CpuPath path = CpuPath::kScalar;
  std::string error;
};

Choice Choose() {
  const char* variable = std::getenv("VMOE_CPU_PATH");
  const std::string forced = variable == nullptr ? "" : variable;
  std::string supported;
  for (CpuPath path : BestFirst()) {
    if (!CpuPathSupported(path)) continue;
    if (forced.empty() || forced == CpuPathName(path)) return {path, ""};
    supported += (supported.empty() ? "" : ", ") + std::string(CpuPathName(path));
  }
  return {CpuPath::kScalar, "VMOE_CPU_PATH is '" + forced.substr(0, 40) + "'; this machine has " + supported};
}

}  // namespace

const char* CpuPathName(CpuPath path) {
  switch (path) {
    case CpuPath::kScalar: return "scalar";
    case CpuPath::kNeon: return "neon";
    case CpuPath::kAvx2: return "avx2";
    case CpuPath::kAvx2Vnni: return "avx2_vnni";
    case CpuPath::kAvx512: return "avx512";
    case CpuPath::kAvx512Vnni: return "avx512_vnni";
    case CpuPath::kAvx512Bf16: return "avx512_bf16";
    case CpuPath::kAmx: return "amx";
    case CpuPath::kAmxEmulated: return "amx_emulated";
  }
  return "";
}

bool CpuPathSupported(CpuPath path) {
  [[maybe_unused]] const CpuFeatures& has = GetCpuFeatures();
  switch (path) {
    case CpuPath::kScalar: return true;
#if defined(__x86_64__)
    case CpuPath::kAvx2: return has.avx2;
    case CpuPath::kAvx2Vnni: return has.avx_vnni;
    case CpuPath::kAvx512: return has.avx512;
    case CpuPath::kAvx512Vnni: return has.avx512_vnni;
    case CpuPath::kAvx512Bf16: return has.avx512_bf16;
    case CpuPath::kAmx: return AmxUsable();
    case CpuPath::kAmxEmulated: return has.avx512_bf16;
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
