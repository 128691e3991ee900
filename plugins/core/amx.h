// Determines whether this process may use Intel's matrix unit (AMX), and configures the unit's tile registers.
#pragma once

#include <cstdint>

namespace vmoe {

// Returns whether the processor has AMX with bfloat16 and int8, and the operating system lets this process use it. The
// first call decides; later calls return the same result.
bool amx_usable();

// The configuration of a thread's tile registers, in the processor's layout.
struct alignas(64) TileConfiguration {
  uint8_t palette = 0;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t line_bytes[16] = {};
  uint8_t rows[16] = {};
};

// If `needed` is true, configures the calling thread's eight tile registers for the lifetime of this object. Each
// register then holds 16 lines of 64 bytes. The destructor restores the previous configuration. This matters because
// other libraries configure the registers only once per thread and rely on that configuration.
class TileConfigurationScope {
 public:
  explicit TileConfigurationScope(bool needed);
  ~TileConfigurationScope();
  TileConfigurationScope(const TileConfigurationScope&) = delete;
  TileConfigurationScope& operator=(const TileConfigurationScope&) = delete;

 private:
  // These members are used only in builds for Linux on x86-64.
  [[maybe_unused]] bool restores_ = false;
  [[maybe_unused]] TileConfiguration before_;
};

}  // namespace vmoe
