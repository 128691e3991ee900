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

// Arguments of arch_prctl(2) that request permission to use the tile registers. Linux lets a process use these large
// registers only on request.
constexpr int kRequestStatePermission = 0x1023;
constexpr int kTileData = 18;

TileConfiguration sixteen_lines() {
  TileConfiguration configuration;
  configuration.palette = 1;
  for (int tile = 0; tile < 8; ++tile) {
    configuration.line_bytes[tile] = 64;
    configuration.rows[tile] = 16;
  }
  return configuration;
}

// These functions are written in assembly, so that the compiler does not have to support AMX.
void load_configuration(const TileConfiguration& configuration) { asm volatile("ldtilecfg %0" : : "m"(configuration)); }
void store_configuration(TileConfiguration& configuration) { asm volatile("sttilecfg %0" : "=m"(configuration)); }
void release_tiles() { asm volatile("tilerelease"); }

}  // namespace

bool amx_usable() {
  static const bool usable = get_cpu_features().amx && syscall(SYS_arch_prctl, kRequestStatePermission, kTileData) == 0;
  return usable;
}

TileConfigurationScope::TileConfigurationScope(bool needed) {
  if (!needed) return;
  static const TileConfiguration ours = sixteen_lines();
  store_configuration(before_);
  restores_ = std::memcmp(&before_, &ours, sizeof(ours)) != 0;
  if (restores_) load_configuration(ours);
}

TileConfigurationScope::~TileConfigurationScope() {
  if (!restores_) return;
  if (before_.palette == 0) {
    release_tiles();
  } else {
    load_configuration(before_);
  }
}
#else
bool amx_usable() { return false; }

TileConfigurationScope::TileConfigurationScope(bool) {}
TileConfigurationScope::~TileConfigurationScope() = default;
#endif

}  // namespace vmoe
