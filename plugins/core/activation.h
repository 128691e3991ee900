// What stands between the two products of an MLP.
#pragma once

#include <cstdint>

namespace vmoe {

// In the order of ACTIVATIONS in exporter/vmoe_export/ops/table.py: GELU in its tanh approximation, the exact one, and
// x * sigmoid(1.702 x).
enum class Activation : int64_t { kNone = -1, kGeluTanh, kGeluErf, kGeluQuick };

}  // namespace vmoe
