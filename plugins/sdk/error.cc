#include "sdk/error.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <system_error>

#include "sdk/decimal.h"

namespace vmoe::sdk {

namespace {

constexpr size_t kMaxQuoted = 80;

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

}  // namespace

void append(std::string& message, double part) { message += shortest(part); }

std::string one_line(std::string_view text) {
  using Json = nlohmann::json;
  // Replaces invalid UTF-8. The JSON library replaces it when it writes the text as JSON. The JSON is then parsed back.
  std::string line = Json::parse(Json(text).dump(-1, ' ', false, Json::error_handler_t::replace)).get<std::string>();
  const auto is_control = [](char c) { return (c >= 0 && c < 0x20) || c == 0x7F; };
  std::replace_if(line.begin(), line.end(), is_control, ' ');
  return line;
}

std::string in_quotes(std::string_view text) {
  if (text.size() <= kMaxQuoted) return "'" + one_line(text) + "'";
  size_t end = kMaxQuoted;
  // Cuts between two characters, never inside a character that consists of several bytes.
  while (end > 0 && is_continuation(text[end])) --end;
  return "'" + one_line(text.substr(0, end)) + "...'";
}

std::string system_error(int error_number) { return std::generic_category().message(error_number); }

}  // namespace vmoe::sdk
