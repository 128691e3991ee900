// On every CPU path that this machine supports, compares every layer of the core with the scalar path, which is in
// plain C++. Prints one line per path, and the name of the default path. The optional argument is the number of sizes
// to test.
//
// tests/op_library/test_op_library_maths.py compares the scalar path with numpy.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "core/amx.h"
#include "core_layers.h"

namespace {

using vmoe::CpuPath;

void require(bool holds, const std::string& what, CpuPath path) {
  if (holds) return;
  std::printf("%s: %s is wrong\n", cpu_path_name(path), what.c_str());
  std::exit(1);
}

// Returns the largest allowed difference. Paths add numbers in different orders, so sums differ slightly. If a sum is
// then rounded to a shorter type, it may become the neighbouring value of that type. In int8, neighbouring values
// differ by 1/127 of the row's largest value.
double tolerance_of(Answer::Kind kind, ElementType type) {
  if (kind == Answer::kExact) return 0;
  return kind == Answer::kFloat32 ? 4e-6 : type == ElementType::kBfloat16 ? 1e-2 : 2.5e-2;
}

// Returns another path that must give the same bits as `path`. If there is no such path, returns `path` itself.
CpuPath twin_of(CpuPath path) {
  switch (path) {
    case CpuPath::kNeonDot:
    case CpuPath::kNeonI8mm: return CpuPath::kNeon;
    case CpuPath::kNeonBf16: return CpuPath::kNeonBf16Emulated;
    case CpuPath::kAmx: return CpuPath::kAmxEmulated;
    default: return path;
  }
}

void check_twin(CpuPath path, ElementType type, unsigned number) {
  const CpuPath twin = twin_of(path);
  if (twin == path) return;
  const auto found = Layers(vmoe::kernels_for(path), type, number, vmoe::serial_runner()).compute();
  const auto expected = Layers(vmoe::kernels_for(twin), type, number, vmoe::serial_runner()).compute();
  for (size_t i = 0; i < expected.size(); ++i) {
    const Floats &ours = found[i].values, &theirs = expected[i].values;
    const bool same = std::memcmp(ours.data(), theirs.data(), theirs.size() * sizeof(float)) == 0;
    require(same, found[i].layer + " is not that of " + cpu_path_name(twin) + ": it", path);
  }
}

void check_layers(const Kernels& kernels, ElementType type, unsigned number) {
  const auto found = Layers(kernels, type, number, vmoe::serial_runner()).compute();
  const auto expected = Layers(vmoe::kernels_for(CpuPath::kScalar), type, number, vmoe::serial_runner()).compute();
  for (size_t i = 0; i < expected.size(); ++i) {
    const Floats &ours = found[i].values, &theirs = expected[i].values;
    require(ours.size() == theirs.size(), found[i].layer, kernels.path);
    double largest = 0;
    for (float value : theirs) largest = std::max(largest, std::abs(static_cast<double>(value)));
    const double tolerance = tolerance_of(found[i].kind, type) * largest;
    for (size_t at = 0; at < ours.size(); ++at) {
      require(std::abs(static_cast<double>(ours[at]) - theirs[at]) <= tolerance, found[i].layer, kernels.path);
    }
  }
}

#if defined(__x86_64__) && defined(__linux__)
// Returns the current configuration of the tile registers. Assembly reads it, so no compiler option is needed.
vmoe::TileConfiguration tile_registers() {
  vmoe::TileConfiguration configuration;
  asm volatile("sttilecfg %0" : "=m"(configuration));
  return configuration;
}

void set_tile_registers(const vmoe::TileConfiguration& configuration) {
  if (configuration.palette == 0) {
    asm volatile("tilerelease");
  } else {
    asm volatile("ldtilecfg %0" : : "m"(configuration));
  }
}

vmoe::TileConfiguration eight_tiles(uint8_t rows, uint16_t line_bytes) {
  vmoe::TileConfiguration configuration;
  configuration.palette = 1;
  std::fill_n(configuration.rows, 8, rows);
  std::fill_n(configuration.line_bytes, 8, line_bytes);
  return configuration;
}

// ONNX Runtime's own matrix products may have configured the thread's tile registers. Layers must work with every
// such configuration, and must restore it when they are done.
void check_tile_configuration(const Kernels& kernels) {
  if (!kernels.needs_tile_configuration) return;
  for (const vmoe::TileConfiguration& before : {vmoe::TileConfiguration{}, eight_tiles(16, 64), eight_tiles(5, 20)}) {
    for (ElementType type : kTypes) {
      set_tile_registers(before);
      check_layers(kernels, type, 5);
      const vmoe::TileConfiguration after = tile_registers();
      require(std::memcmp(&after, &before, sizeof(after)) == 0, "the tile registers' configuration", kernels.path);
    }
  }
  set_tile_registers({});
}
#else
void check_tile_configuration(const Kernels&) {}
#endif

}  // namespace

int main(int argc, char** argv) {
  const unsigned sizes = argc > 1 ? static_cast<unsigned>(std::atoi(argv[1])) : 24;
  for (CpuPath path : supported_paths()) {
    const Kernels& kernels = vmoe::kernels_for(path);
    require(kernels.path == path, "the choice of kernels", path);
    for (unsigned number = 0; number < sizes; ++number) {
      for (ElementType type : kTypes) {
        check_layers(kernels, type, number);
        check_twin(path, type, number);
      }
    }
    check_tile_configuration(kernels);
    std::printf("%s: right\n", cpu_path_name(path));
  }
  std::printf("%s: used\n", cpu_path_name(vmoe::chosen_cpu_path().path));
  return 0;
}
