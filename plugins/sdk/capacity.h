// Capacity arithmetic: how many slots every expert has in one group of tokens.
//
// Source: "Scaling Vision with Sparse Mixture of Experts" (arXiv 2106.05974), section 2.3, and `compute_capacity` in
// the official vmoe/moe.py. The integer is computed in doubles and in the official order of operations, because another
// order gives another integer: n=100, E=10, C=1.1 is 11.000000000000002, so 12 slots.
#pragma once

#include <cstdint>

namespace vmoe::sdk {

enum class Rounding { kCeil, kHalfToEven };

// Slots per expert and group, 1 or more.
//
// num_pairs: (token, expert) pairs of the tokens of one group, S * K.
// capacity_ratio: C, the share of the pairs that there are slots for when the router is balanced; at most num_experts.
// multiple_of: the result is rounded up to a multiple of this.
//
// All three numbers are below 2^48, and so are the slots.
//
// Throws VMOE_ROUTING_ERROR: the ratio is not a positive finite number, or leaves no slot at all.
int64_t compute_slots(int64_t num_pairs, int64_t num_experts, double capacity_ratio, Rounding rounding,
                      int64_t multiple_of);

}  // namespace vmoe::sdk
