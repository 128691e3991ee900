// Capacity arithmetic. It computes the number of slots that each expert has in one group of tokens.
//
// Source: "Scaling Vision with Sparse Mixture of Experts" (arXiv 2106.05974), section 2.3, and `compute_capacity` in
// the official vmoe/moe.py. The official code computes in doubles. The order of operations affects the result, so this
// code keeps the official order. For example, 100 pairs, 10 experts and C = 1.1 give 11.000000000000002 slots, which is
// rounded up to 12.
#pragma once

#include <cstdint>

namespace vmoe::sdk {

enum class Rounding { kCeil, kHalfToEven };

// Returns the number of slots per expert and group, 1 or more.
//
// num_pairs: the number of (token, expert) pairs in one group, S * K.
// capacity_ratio: C, the total number of slots divided by num_pairs, before rounding. At most num_experts.
// multiple_of: the result is rounded up to a multiple of this number.
//
// num_pairs, num_experts and multiple_of must be below 2^48. The result is then below 2^48 too.
//
// Throws VMOE_ROUTING_ERROR if capacity_ratio is not a positive finite number, or if the result would be 0 slots.
int64_t compute_slots(int64_t num_pairs, int64_t num_experts, double capacity_ratio, Rounding rounding,
                      int64_t multiple_of);

}  // namespace vmoe::sdk
