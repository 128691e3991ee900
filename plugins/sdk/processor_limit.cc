#include "sdk/processor_limit.h"

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>

namespace vmoe::sdk {
namespace {

std::string first_line(const char* path) {
  std::string line;
  std::ifstream file(path);
  std::getline(file, line);
  return line;
}

}  // namespace

int processor_limit() {
  // Version 2 writes both into one file, and "max" for no limit; version 1 has -1.
  std::string text = first_line("/sys/fs/cgroup/cpu.max");
  if (text.empty()) {
    text = first_line("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") + ' ' + first_line("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  }
  char* rest = nullptr;
  const double quota = std::strtod(text.c_str(), &rest), period = std::strtod(rest, nullptr);
  const double limit = period > 0 ? std::ceil(quota / period) : 0;
  return limit > 0 && limit < std::thread::hardware_concurrency() ? static_cast<int>(limit) : 0;
}

}  // namespace vmoe::sdk
