// Determines how many CPUs this process may use.
#pragma once

namespace vmoe::sdk {

// Returns the number of CPUs that this process may run on, or the CPU limit of its container if that limit is lower.
// Returns 0 if the process may use all CPUs of the machine. vmoe_runtime/processors.py computes the same number in
// Python.
int processor_limit();

}  // namespace vmoe::sdk
