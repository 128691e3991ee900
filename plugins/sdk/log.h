// What an operator wants to know, for the callback of vmoe_set_log. To be called without a lock that a callback could
// need, but for what ONNX Runtime says during a load.
#pragma once

#include <cstdint>
#include <string>

#include "sdk/error.h"
#include "vmoe/engine.h"

namespace vmoe::sdk {

// See vmoe_set_log. Throws VMOE_ARGUMENT_ERROR: there is no such level.
void set_log(int32_t least_level, vmoe_log_callback callback, void* user, void (*release)(void*));

// Whether a message of that level would reach a callback.
bool is_logged(vmoe_log_level level) noexcept;

// Whether this thread is inside the callback.
bool in_log_callback() noexcept;

// Hands the callback a message, in one line. One that there is no memory for is lost.
void log_message(vmoe_log_level level, const char* message) noexcept;

// What is logged goes on where there is no memory for a message, or a callback throws.
template <typename Step>
void ignoring_failures(const Step& step) noexcept {
  try {
    step();
  } catch (...) {  // NOLINT(bugprone-empty-catch)
  }
}

// A message of parts, as for `fail`.
template <typename... Parts>
void log(vmoe_log_level level, const Parts&... parts) noexcept {
  if (!is_logged(level)) return;
  ignoring_failures([&] {
    std::string message;
    (append(message, parts), ...);
    log_message(level, message.c_str());
  });
}

}  // namespace vmoe::sdk
