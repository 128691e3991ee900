#include "core/cpu_path.h"

#include <algorithm>
#include <cstdlib>

#include "core/amx.h"

namespace vmoe {
namespace {

ChosenCpuPath choose() {
  const char* variable = std::getenv("VMOE_CPU_PATH");
  const std::string forced = variable == nullptr ? "" : variable;
  std::string supported;
  for (CpuPath path : cpu_paths_of(get_cpu_features())) {
    if (!cpu_path_supported(path)) continue;
    if (forced.empty() || forced == cpu_path_name(path)) return {path, ""};
    supported += (supported.empty() ? "" : ", ") + std::string(cpu_path_name(path));
  }
  return {CpuPath::kScalar, "VMOE_CPU_PATH is '" + forced.substr(0, 40) + "'; this machine has " + supported};
}

}  // namespace

std::vector<CpuPath> cpu_paths_of([[maybe_unused]] const CpuFeatures& has) {
  std::vector<CpuPath> paths;
  [[maybe_unused]] const auto add = [&](bool there, CpuPath path) {
    if (there) paths.push_back(path);
  };
#if defined(__x86_64__)
  add(has.amx, CpuPath::kAmx);
  // The speed of bfloat16 instructions determines the order of these paths. Without these instructions, a product
  // first widens its values to float32. On AMD processors, bfloat16 instructions halve the time that a product takes.
  // On Intel processors without a matrix unit, they double that time.
  add(has.avx512_bf16 && has.amd, CpuPath::kAvx512Bf16);
  add(has.avx512_vnni, CpuPath::kAvx512Vnni);
  add(has.avx512_bf16 && !has.amd, CpuPath::kAvx512Bf16);
  add(has.avx512, CpuPath::kAvx512);
  add(has.avx_vnni, CpuPath::kAvx2Vnni);
  add(has.avx2, CpuPath::kAvx2);
#elif defined(__aarch64__)
  const bool multiplies_int8 = has.dot_product && has.int8_matrix;
  add(multiplies_int8 && has.bf16_matrix, CpuPath::kNeonBf16);
  add(multiplies_int8, CpuPath::kNeonI8mm);
  add(has.dot_product, CpuPath::kNeonDot);
  paths.push_back(CpuPath::kNeon);
#endif
  paths.push_back(CpuPath::kScalar);
#if defined(__x86_64__)
  add(has.avx512_bf16, CpuPath::kAmxEmulated);
#elif defined(__aarch64__)
  paths.push_back(CpuPath::kNeonBf16Emulated);
#endif
  return paths;
}

bool cpu_path_supported(CpuPath path) {
  const std::vector<CpuPath> paths = cpu_paths_of(get_cpu_features());
  // The processor may have tile registers even if the operating system does not let this process use them.
  if (path == CpuPath::kAmx && !amx_usable()) return false;
  return std::find(paths.begin(), paths.end(), path) != paths.end();
}

const ChosenCpuPath& chosen_cpu_path() {
  static const ChosenCpuPath chosen = choose();
  return chosen;
}

}  // namespace vmoe
