#include "sdk/capacity.h"

#include <cmath>

#include "sdk/decimal.h"
#include "sdk/error.h"

namespace vmoe::sdk {

WideInt compute_slots(WideInt num_pairs, WideInt num_experts, double capacity_ratio, Rounding rounding,
                      WideInt multiple_of) {
  if (!(std::isfinite(capacity_ratio) && capacity_ratio > 0)) {
    fail(VMOE_ROUTING_ERROR, "the capacity ratio must be a positive number, not ", shortest(capacity_ratio));
  }
  const double exact = static_cast<double>(num_pairs) * capacity_ratio / static_cast<double>(num_experts);
  const auto slots = static_cast<WideInt>(rounding == Rounding::kCeil ? std::ceil(exact) : std::nearbyint(exact));
  if (slots < 1) {
    fail(VMOE_ROUTING_ERROR, "the capacity ratio ", shortest(capacity_ratio), " leaves no slot per expert for ",
         static_cast<long long>(num_pairs), " token-expert pairs on ", static_cast<long long>(num_experts),
         " experts with rounding 'round'; use a larger ratio");
  }
  return (slots + multiple_of - 1) / multiple_of * multiple_of;
}

}  // namespace vmoe::sdk
