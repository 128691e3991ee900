#include "sdk/capacity.h"

#include <cmath>

#include "sdk/decimal.h"
#include "sdk/error.h"

namespace vmoe::sdk {

int64_t compute_slots(int64_t num_pairs, int64_t num_experts, double capacity_ratio, Rounding rounding,
                      int64_t multiple_of) {
  if (!(std::isfinite(capacity_ratio) && capacity_ratio > 0)) {
    fail(VMOE_ROUTING_ERROR, "the capacity ratio must be a positive number, not ", shortest(capacity_ratio));
  }
  const double exact = static_cast<double>(num_pairs) * capacity_ratio / static_cast<double>(num_experts);
  const auto slots = static_cast<int64_t>(rounding == Rounding::kCeil ? std::ceil(exact) : std::nearbyint(exact));
  if (slots < 1) {
    fail(VMOE_ROUTING_ERROR, "the capacity ratio ", shortest(capacity_ratio), " leaves no slot per expert for ",
         num_pairs, " token-expert pairs on ", num_experts, " experts with rounding 'round'; use a larger ratio");
  }
  return (slots + multiple_of - 1) / multiple_of * multiple_of;
}

}  // namespace vmoe::sdk
