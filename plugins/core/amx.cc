#include "core/amx.h"

#include <cstring>

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

#include "core/cpu_features.h"
#endif

namespace vmoe {

#if defined(__x86_64__) && defined(__linux__)
namespace {

// arch_prctl(2): a process asks for the large state of the tile registers.
constexpr int kRequestStatePermission = 0x1023;
constexpr int kTileData = 18;

TileConfiguration SixteenLines() {
  TileConfiguration configuration;
  configuration.palette = 1;
  for (int tile = 0; tile < 8; ++tile) {
    configuration.line_bytes[tile] = 64;
    configuration.rows[tile] = 16;
  }
  return configuration;
}

// As instructions, so that no compiler needs to know them.
void Load(const TileConfiguration& configuration) { asm volatile("ldtilecfg %0" : : "m"(configuration)); }
void Store(TileConfiguration& configuration) { asm volatile("sttilecfg %0" : "=m"(configuration)); }
void Release() { asm volatile("tilerelease"); }

}  // namespace

bool AmxUsable() {
  static const bool usable = GetCpuFeatures().amx && syscall(SYS_arch_prctl, kRequestStatePermission, kTileData) == 0;
  return usable;
}

TileConfigurationScope::TileConfigurationScope(bool needed) {
  if (!needed) return;
  static const TileConfiguration ours = SixteenLines();
  Store(before_);
  restores_ = std::memcmp(&before_, &ours, sizeof(ours)) != 0;
  if (restores_) Load(ours);
}

TileConfigurationScope::~TileConfigurationScope() {
  if (!restores_) return;
  if (before_.palette == 0) {
    Release();
  } else {
    Load(before_);
  }
}
#else
bool AmxUsable() { return false; }

TileConfigurationScope::TileConfigurationScope(bool) {}
TileConfigurationScope::~TileConfigurationScope() = default;
#endif

}  // namespace vmoe
