// The activation functions that an MLP can apply between its two matrix products.
#pragma once

#include <cstdint>

namespace vmoe {

// The order matches ACTIVATIONS in exporter/vmoe_export/ops/table.py. The functions are GELU in its tanh approximation,
// exact GELU, x * sigmoid(1.702 x), and x * sigmoid(x).
enum class Activation : int64_t { kNone = -1, kGeluTanh, kGeluErf, kGeluQuick, kSilu };

}  // namespace vmoe
