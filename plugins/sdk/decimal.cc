#include "sdk/decimal.h"

#include <charconv>
#include <cmath>
#include <limits>

namespace vmoe::sdk {

namespace {

constexpr int kLowestFixed = -4;  // decimal exponents that Python writes without an "e"
constexpr int kHighestFixed = 15;

std::string fixed(const std::string& digits, int exponent) {
  if (exponent < 0) return "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  const size_t whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) return digits + std::string(whole - digits.size(), '0') + ".0";
  return digits.substr(0, whole) + "." + digits.substr(whole);
}

}  // namespace

std::string shortest(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), std::fabs(value), std::chars_format::scientific).ptr;
  const std::string_view text(buffer, static_cast<size_t>(end - buffer));
  const size_t e = text.find('e');
  std::string digits(text.substr(0, e));
  if (digits.size() > 1) digits.erase(1, 1);
  int exponent = 0;
  const char* first = text.data() + e + (text[e + 1] == '+' ? 2 : 1);
  std::from_chars(first, end, exponent);
  const std::string sign = std::signbit(value) ? "-" : "";
  if (kLowestFixed <= exponent && exponent <= kHighestFixed) return sign + fixed(digits, exponent);
  return sign + digits.substr(0, 1) + (digits.size() > 1 ? "." + digits.substr(1) : "") + std::string(text.substr(e));
}

std::string rounded(double value) {
  char buffer[64];
  return {buffer, std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::general, 6).ptr};
}

std::optional<double> parse_decimal(std::string_view text) {
  double value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ptr != text.data() + text.size()) return std::nullopt;
  if (result.ec == std::errc::result_out_of_range) {
    const bool tiny = text.find("e-") != std::string_view::npos || text.substr(0, 1) == "0";
    return tiny ? 0.0 : std::numeric_limits<double>::infinity();
  }
  return result.ec == std::errc() ? std::optional(value) : std::nullopt;
}

}  // namespace vmoe::sdk
