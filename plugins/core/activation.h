// The activations between the two products of an MLP.
#pragma once

#include <cstdint>

namespace vmoe {

// In the order of ACTIVATIONS in exporter/vmoe_export/ops/table.py: the tanh approximation of GELU, the exact GELU,
// x * sigmoid(1.702 x) and x * sigmoid(x).
enum class Activation : int64_t { kNone = -1, kGeluTanh, kGeluErf, kGeluQuick, kSilu };

}  // namespace vmoe
