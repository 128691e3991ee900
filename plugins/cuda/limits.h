// Which routings the GPU kernels do, and what workspace they need. Nothing here needs CUDA.
#pragma once

#include <cstddef>

#include "core/routing_shape.h"

namespace vmoe::cuda {

inline constexpr size_t kMostTokens = 65536;  // S, per group
inline constexpr size_t kMostExperts = 256;   // E
inline constexpr size_t kMostChoices = 8;     // K

// Why route and route_dispatch can't do this routing, as the end of a sentence such as "k must be ..."; null if they
// can. The text lives as long as the process.
const char* routing_refusal(const RoutingShape& shape);

// Why compute_gates can't do gates [tokens,E] of x [tokens,D]; null if it can.
const char* gates_refusal(size_t tokens, size_t hidden, size_t experts);

// Bytes of workspace, 256-byte aligned, for a shape that is not refused; 0 for small groups (S * K <= 2048). The
// workspace of more groups serves fewer of them, too.
size_t route_workspace_bytes(const RoutingShape& shape);
size_t route_dispatch_workspace_bytes(const RoutingShape& shape);

}  // namespace vmoe::cuda
