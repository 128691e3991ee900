// The only exception type that the library throws, and functions that build its message. The C API converts the
// exception to a vmoe_status.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

#include "vmoe/engine.h"

namespace vmoe::sdk {

class Error : public std::runtime_error {
 public:
  Error(vmoe_code code, const std::string& message) : std::runtime_error(message), code_(code) {}
  vmoe_code code() const { return code_; }

 private:
  vmoe_code code_;
};

// The error for a bundle that was written to, renamed or replaced while it was being loaded.
class ChangedError : public Error {
 public:
  explicit ChangedError(const std::string& message) : Error(VMOE_BUNDLE_ERROR, message) {}
};

inline void append(std::string& message, std::string_view part) { message += part; }

template <typename T, std::enable_if_t<std::is_integral_v<T>, int> = 0>
void append(std::string& message, T part) {
  message += std::to_string(part);
}

void append(std::string& message, double part);

// Throws an Error whose message is the concatenation of `parts`, which are strings and numbers.
template <typename... Parts>
[[noreturn]] void fail(vmoe_code code, const Parts&... parts) {
  std::string message;
  (append(message, parts), ...);
  throw Error(code, message);
}

// Returns text that comes from outside the library, for use in a message. The text is put in quotes, on one line of at
// most 80 bytes.
std::string in_quotes(std::string_view text);

// Returns the text as UTF-8 on one line. Each control character becomes a space, and each invalid byte becomes U+FFFD.
std::string one_line(std::string_view text);

// Returns the system's message for an errno value.
std::string system_error(int error_number);

}  // namespace vmoe::sdk
