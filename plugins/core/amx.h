// Intel's matrix unit: whether this process may use it, and its registers' configuration.
#pragma once

#include <cstdint>

namespace vmoe {

// Whether the processor has AMX with bfloat16 and int8, and the system lets this process use it. Decided once.
bool amx_usable();

// The configuration of a thread's tile registers, in the processor's layout.
struct alignas(64) TileConfiguration {
  uint8_t palette = 0;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t line_bytes[16] = {};
  uint8_t rows[16] = {};
};

// While an object exists, the calling thread's eight tile registers have 16 lines of 64 bytes. The destructor restores
// the previous configuration, since other libraries on the same threads set theirs once and rely on it.
class TileConfigurationScope {
 public:
  explicit TileConfigurationScope(bool needed);
  ~TileConfigurationScope();
  TileConfigurationScope(const TileConfigurationScope&) = delete;
  TileConfigurationScope& operator=(const TileConfigurationScope&) = delete;

 private:
  // Used on processors that may have a matrix unit.
  [[maybe_unused]] bool restores_ = false;
  [[maybe_unused]] TileConfiguration before_;
};

}  // namespace vmoe
