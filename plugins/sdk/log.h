// Log messages for the callback of vmoe_set_log. Don't log while holding a lock that a callback could need. The
// exception is ONNX Runtime's messages during a load.
#pragma once

#include <cstdint>
#include <string>

#include "sdk/error.h"
#include "vmoe/engine.h"

namespace vmoe::sdk {

// Sets the callback: see vmoe_set_log. Throws VMOE_ARGUMENT_ERROR if there is no such level.
void set_log(int32_t least_level, vmoe_log_callback callback, void* user, void (*release)(void*));

// Whether a message of this level would reach a callback.
bool is_logged(vmoe_log_level level) noexcept;

// Whether this thread is inside the callback.
bool in_log_callback() noexcept;

// Passes a message to the callback, as one line. If there is no memory for it, the message is lost.
void log_message(vmoe_log_level level, const char* message) noexcept;

// Runs `step` and ignores exceptions. Logging must not disturb its caller if there is no memory or a callback throws.
template <typename Step>
void ignoring_failures(const Step& step) noexcept {
  try {
    step();
  } catch (...) {  // NOLINT(bugprone-empty-catch)
  }
}

// Logs a message that consists of parts, as in `fail`.
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
