// The one exception inside the library, and the pieces of its sentence. The C API turns it into a vmoe_status.
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
  Error(vmoe_code code, const std::string& sentence) : std::runtime_error(sentence), code_(code) {}
  vmoe_code code() const { return code_; }

 private:
  vmoe_code code_;
};

// A bundle was written to, renamed or replaced while it was being loaded.
class ChangedError : public Error {
 public:
  explicit ChangedError(const std::string& sentence) : Error(VMOE_BUNDLE_ERROR, sentence) {}
};

inline void append(std::string& sentence, std::string_view part) { sentence += part; }

template <typename T, std::enable_if_t<std::is_integral_v<T>, int> = 0>
void append(std::string& sentence, T part) {
  sentence += std::to_string(part);
}

void append(std::string& sentence, double part);

// Throws an Error whose message is the parts one after another: text and numbers.
template <typename... Parts>
[[noreturn]] void fail(vmoe_code code, const Parts&... parts) {
  std::string sentence;
  (append(sentence, parts), ...);
  throw Error(code, sentence);
}

// Text from outside between quotes: one line, at most 80 bytes.
std::string in_quotes(std::string_view text);

// The text as UTF-8 without line breaks and other control characters; U+FFFD stands for what is no text.
std::string one_line(std::string_view text);

// The system's words for an errno.
std::string system_error(int error_number);

}  // namespace vmoe::sdk
