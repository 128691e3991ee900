#include "sdk/decimal.h"

#include <charconv>
#include <cmath>
#include <limits>

namespace vmoe::sdk {

std::string shortest(double value) {
  if (std::isnan(value)) return "nan";
  char buffer[64];
  // Python writes numbers in this range without an exponent, and all other numbers with one.
  const bool fixed = value == 0 || (std::fabs(value) >= 1e-4 && std::fabs(value) < 1e16);
  const auto format = fixed ? std::chars_format::fixed : std::chars_format::scientific;
  std::string text(buffer, std::to_chars(buffer, buffer + sizeof(buffer), value, format).ptr);
  return fixed && text.find('.') == std::string::npos ? text + ".0" : text;
}

std::string rounded(double value) {
  char buffer[64];
  return {buffer, std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::general, 6).ptr};
}

double parse_decimal(const std::string& text) {
  double value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc::result_out_of_range) return value;
  const bool tiny = text.find("e-") != std::string::npos || text[0] == '0';
  return tiny ? 0.0 : std::numeric_limits<double>::infinity();
}

std::string in_thousands(int64_t number) {
  std::string text = std::to_string(number);
  for (size_t i = text.size(); i > 3; i -= 3) text.insert(i - 3, ",");
  return text;
}

}  // namespace vmoe::sdk
