#include "sdk/profile.h"

#include <algorithm>
#include <charconv>
#include <limits>

#include "sdk/decimal.h"
#include "sdk/error.h"

namespace vmoe::sdk {

namespace {

constexpr WideInt kSmallGroup = 128;  // pairs; below, a multiple of 4 or 8 may exceed them without harm
constexpr size_t kMaxDigitsOfK = 6;
constexpr std::string_view kVanilla = "-vanilla";

size_t digits_from(std::string_view text, size_t start) {
  size_t end = start;
  while (end < text.size() && text[end] >= '0' && text[end] <= '9') ++end;
  return end - start;
}

// Length of digits, a point and more digits if there is one, and an exponent without plus; 0 if it is none.
size_t ratio_length(std::string_view text) {
  size_t end = digits_from(text, 0);
  if (end == 0) return 0;
  if (text.substr(end, 1) == ".") {
    const size_t decimals = digits_from(text, end + 1);
    if (decimals == 0) return 0;
    end += 1 + decimals;
  }
  if (text.substr(end, 1) == "e") {
    const size_t sign = text.substr(end + 1, 1) == "-" ? 1 : 0;
    const size_t exponent = digits_from(text, end + 1 + sign);
    if (exponent == 0) return 0;
    end += 1 + sign + exponent;
  }
  return end;
}

int64_t narrow(WideInt places) {
  if (places > std::numeric_limits<int64_t>::max()) {
    fail(VMOE_ROUTING_ERROR, "the setting gives more places per expert than 64 bits can count");
  }
  return static_cast<int64_t>(places);
}

}  // namespace

std::string profile_name(double capacity_ratio, int64_t k, bool bpr) {
  std::string ratio = shortest(capacity_ratio);
  if (ratio.size() > 2 && ratio.compare(ratio.size() - 2, 2, ".0") == 0) ratio.resize(ratio.size() - 2);
  return "c" + ratio + "-k" + std::to_string(k) + (bpr ? "" : std::string(kVanilla));
}

std::optional<NamedSetting> parse_profile_name(std::string_view name) {
  if (name.substr(0, 1) != "c") return std::nullopt;
  name.remove_prefix(1);
  const size_t length = ratio_length(name);
  const auto ratio = parse_decimal(name.substr(0, length));
  name.remove_prefix(length);
  if (length == 0 || !ratio || name.substr(0, 2) != "-k") return std::nullopt;
  name.remove_prefix(2);
  const size_t digits = digits_from(name, 0);
  if (digits == 0 || digits > kMaxDigitsOfK) return std::nullopt;
  int64_t k = 0;
  const std::string number(name.substr(0, digits));
  std::from_chars(number.data(), number.data() + number.size(), k);
  name.remove_prefix(digits);
  if (!name.empty() && name != kVanilla) return std::nullopt;
  return NamedSetting{*ratio, k, name.empty()};
}

Profile RoutingRules::profile(double capacity_ratio, int64_t k, bool bpr) const {
  const int64_t most = num_experts / ensemble_size;
  if (k < 1 || k > most) {
    fail(VMOE_ROUTING_ERROR, "k must be between 1 and the number of experts", ensemble_size == 1 ? "" : " of a member",
         ", ", most, ", not ", k);
  }
  if (capacity_ratio > static_cast<double>(num_experts)) {
    fail(VMOE_ROUTING_ERROR, "the capacity ratio ", rounded(capacity_ratio), " is larger than the number of experts, ",
         num_experts, "; from ", rounded(static_cast<double>(num_experts) / static_cast<double>(k)),
         " on no token is dropped");
  }
  const WideInt pairs = static_cast<WideInt>(group_tokens) * k;
  const WideInt places = compute_capacity(pairs, num_experts, capacity_ratio, rounding, capacity_multiple_of);
  // An expert can't get more than all pairs; a multiple far above would only cost memory.
  if (places > std::max(pairs, kSmallGroup)) {
    fail(VMOE_ROUTING_ERROR, "rounding up to a multiple of ", capacity_multiple_of, " gives ", narrow(places),
         " places per expert, where a group has ", static_cast<int64_t>(pairs), " token-expert pairs");
  }
  return {profile_name(capacity_ratio, k, bpr),
          capacity_ratio,
          effective_ratio(places, pairs, num_experts),
          k,
          bpr,
          std::vector<int64_t>(num_moe_layers, narrow(places))};
}

}  // namespace vmoe::sdk
