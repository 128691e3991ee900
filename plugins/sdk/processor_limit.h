// CPUs that this process may run on, or fewer if the control group of a container grants less time.
#pragma once

namespace vmoe::sdk {

// 0 if those are all of the machine. As vmoe_runtime/processors.py.
int processor_limit();

}  // namespace vmoe::sdk
