// Log messages for the callback of vmoe_set_log. Code must not log while it holds a lock that a callback could need.
// Only ONNX Runtime's messages during a load are an exception.
#pragma once

#include <cstdint>
#include <string>

#include "sdk/error.h"
#include "vmoe/engine.h"

namespace vmoe::sdk {

// Sets the callback: see vmoe_set_log. Throws VMOE_ARGUMENT_ERROR if there is no such level.
void set_log(int32_t least_level, vmoe_log_callback callback, void* user, void (*release)(void*));

// Returns whether a message of this level would reach a callback.
bool is_logged(vmoe_log_level level) noexcept;

// Returns whether this thread is inside the callback.
bool in_log_callback() noexcept;

// Passes a message to the callback as one line. The message is lost if there is no memory for it.
void log_message(vmoe_log_level level, const char* message) noexcept;

// Runs `step` and ignores its exceptions: logging must not disturb its caller, even if there is no memory or a callback
// throws.
template <typename Step>
void ignoring_failures(const Step& step) noexcept {
  try {
    step();
  } catch (...) {  // NOLINT(bugprone-empty-catch)
  }
}

// Logs a message, which is the concatenation of `parts`, as in `fail`.
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
