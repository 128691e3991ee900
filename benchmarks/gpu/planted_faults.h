// Kernels that are wrong on purpose, to see that compute-sanitizer would tell of the others.
#pragma once

namespace vmoe_gpu {

// Runs what a tool of compute-sanitizer must report: memcheck, racecheck, synccheck or initcheck. Returns false for any
// other name. What CUDA says to it is of no interest.
bool PlantFault(const char* tool);

}  // namespace vmoe_gpu
