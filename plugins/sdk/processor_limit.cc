#include "sdk/processor_limit.h"

#include <cmath>
#include <fstream>
#include <thread>

namespace vmoe::sdk {

int processor_limit() {
  double quota = 0, period = 0;
  // Version 2 writes both into one file, and "max" for no limit; version 1 has -1.
  if (std::ifstream both("/sys/fs/cgroup/cpu.max"); !(both >> quota >> period)) {
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") >> quota;
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_period_us") >> period;
  }
  const double limit = period > 0 ? std::ceil(quota / period) : 0;
  return limit > 0 && limit < std::thread::hardware_concurrency() ? static_cast<int>(limit) : 0;
}

}  // namespace vmoe::sdk
