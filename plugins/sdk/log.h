// Passes log messages to the callback of vmoe_set_log. Code must not log while it holds a lock that a callback could
// need. The only exception is the messages that ONNX Runtime logs during a load.
#pragma once

#include <cstdint>
#include <string>

#include "sdk/error.h"
#include "vmoe/engine.h"

namespace vmoe::sdk {

// Sets the log callback: see vmoe_set_log. Throws VMOE_ARGUMENT_ERROR if `least_level` is not a log level.
void set_log(int32_t least_level, vmoe_log_callback callback, void* user, void (*release)(void*));

// Returns whether a message of this level would reach a callback.
bool is_logged(vmoe_log_level level) noexcept;

// Returns whether this thread is inside a log callback.
bool in_log_callback() noexcept;

// Passes a message to the log callback as one line. The message is lost if there is no memory for it.
void log_message(vmoe_log_level level, const char* message) noexcept;

// Runs `step` and ignores its exceptions. Logging must not disturb its caller, even if there is no memory or if a
// callback throws an exception.
template <typename Step>
void ignoring_failures(const Step& step) noexcept {
  try {
    step();
  } catch (...) {  // NOLINT(bugprone-empty-catch)
  }
}

// Logs a message that is the concatenation of `parts`, which are strings and numbers.
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
