// What stands between the products of an MLP.
#pragma once

#include <cstdint>

namespace vmoe {

// In the order of ACTIVATIONS in exporter/vmoe_export/ops/table.py: GELU in its tanh approximation, the exact one,
// x * sigmoid(1.702 x) and x * sigmoid(x).
enum class Activation : int64_t { kNone = -1, kGeluTanh, kGeluErf, kGeluQuick, kSilu };

}  // namespace vmoe
