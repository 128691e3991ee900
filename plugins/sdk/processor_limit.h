// CPUs whose time the control group of a container grants.
#pragma once

namespace vmoe::sdk {

// Rounded up; 0 if those that this process may run on are no more. As vmoe_runtime/processors.py.
int processor_limit();

}  // namespace vmoe::sdk
