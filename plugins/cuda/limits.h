// The routings that the GPU kernels support, and the workspace that they need. This header does not need CUDA.
#pragma once

#include <cstddef>

#include "core/routing_shape.h"

namespace vmoe::cuda {

inline constexpr size_t kMostTokens = 65536;  // S, per group
inline constexpr size_t kMostExperts = 256;   // E
inline constexpr size_t kMostChoices = 8;     // K

// Returns why route and route_dispatch don't support this routing, as a phrase such as "k must be ..."; null if they
// do. The text lives as long as the process.
const char* routing_refusal(const RoutingShape& shape);

// Returns why compute_gates doesn't support gates [tokens,E] of x [tokens,D]; null if it does.
const char* gates_refusal(size_t tokens, size_t hidden, size_t experts);

// Returns the bytes of workspace that a supported shape needs, 256-byte aligned; 0 for small groups (S * K <= 2048). A
// workspace for more groups is also large enough for fewer.
size_t route_workspace_bytes(const RoutingShape& shape);
size_t route_dispatch_workspace_bytes(const RoutingShape& shape);

}  // namespace vmoe::cuda
