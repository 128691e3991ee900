#include "sdk/error.h"

#include <system_error>

#include "sdk/utf8.h"

namespace vmoe::sdk {

namespace {

constexpr size_t kMaxQuoted = 80;

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

}  // namespace

std::string one_line(std::string_view text) {
  std::string line;
  while (!text.empty()) {
    const size_t length = utf8_length(text);
    const auto first = static_cast<unsigned char>(text[0]);
    if (length == 0) {
      line += "\uFFFD";
    } else if (first < 0x20 || first == 0x7F) {
      line += ' ';
    } else {
      line += text.substr(0, length);
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return line;
}

std::string in_quotes(std::string_view text) {
  if (text.size() <= kMaxQuoted) return "'" + one_line(text) + "'";
  size_t end = kMaxQuoted;
  // A character of several bytes is kept whole or left out.
  while (end > 0 && is_continuation(text[end])) --end;
  return "'" + one_line(text.substr(0, end)) + "...'";
}

std::string system_error(int error_number) { return std::generic_category().message(error_number); }

}  // namespace vmoe::sdk
