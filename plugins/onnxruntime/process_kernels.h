// The float kernels that this process runs on.
#pragma once

#include "core/kernels.h"

namespace vmoe::ort {

// The kernels of this process's CPU path. Throws OpError if VMOE_CPU_PATH names one that isn't there.
const Kernels& process_kernels();

}  // namespace vmoe::ort
