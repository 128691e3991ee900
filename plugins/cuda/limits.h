// Checks which shapes the GPU kernels support, and computes how much workspace the kernels need. This header does not
// need CUDA.
#pragma once

#include <cstddef>

#include "core/routing_shape.h"

namespace vmoe::cuda {

inline constexpr size_t kMostTokens = 65536;  // S, per group
inline constexpr size_t kMostExperts = 256;   // E
inline constexpr size_t kMostChoices = 8;     // K

// Returns null if `route` and `route_dispatch` support this routing. Otherwise returns the reason why they don't, as a
// phrase such as "k must be ...". The returned string stays valid until the process ends.
const char* routing_refusal(const RoutingShape& shape);

// Returns null if compute_gates supports x [tokens,D] and gates [tokens,E], where D is `hidden` and E is `experts`.
// Otherwise returns the reason why it does not, as a phrase like those that routing_refusal returns.
const char* gates_refusal(size_t tokens, size_t hidden, size_t experts);

// Return the size in bytes of the workspace for a supported shape. The size is a multiple of 256. It is 0 if groups are
// small (S * K <= 2048). A workspace for some number of groups is also large enough for fewer groups.
size_t route_workspace_bytes(const RoutingShape& shape);
size_t route_dispatch_workspace_bytes(const RoutingShape& shape);

}  // namespace vmoe::cuda
