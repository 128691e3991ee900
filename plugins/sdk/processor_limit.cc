#include "sdk/processor_limit.h"

#include <sched.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <string>

namespace vmoe::sdk {
namespace {

std::string first_line(const char* path) {
  std::string line;
  std::ifstream file(path);
  std::getline(file, line);
  return line;
}

// Returns the number of online CPUs that this process may run on.
int usable_processors([[maybe_unused]] int online) {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
#endif
  return online;
}

}  // namespace

int processor_limit() {
  // In cgroups version 2, one file contains both the quota and the period. If there is no limit, the quota is "max". In
  // version 1, the quota and the period are in separate files. If there is no limit, the quota is -1.
  std::string text = first_line("/sys/fs/cgroup/cpu.max");
  if (text.empty()) {
    text = first_line("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") + ' ' + first_line("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  }
  char* rest = nullptr;
  const double quota = std::strtod(text.c_str(), &rest), period = std::strtod(rest, nullptr);
  const double limit = period > 0 ? std::ceil(quota / period) : 0;
  const auto online = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  const int usable = usable_processors(online);
  if (limit > 0 && limit < usable) return static_cast<int>(limit);
  return usable < online ? usable : 0;
}

}  // namespace vmoe::sdk
