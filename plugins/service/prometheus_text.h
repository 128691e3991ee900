// Collects the service's metrics, and writes them in Prometheus' text format.
#pragma once

#include <array>
#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "generated/endpoints.h"

// The service's metrics. Any thread may call any function.
class Metrics {
 public:
  // Counts a reply. `request` is a route's label, or "server". `seconds` is how long the reply took.
  void replied(const std::string& request, int status, double seconds);

  // Returns all metrics as Prometheus text. `unturned` is the number of pictures whose EXIF orientation has been
  // ignored so far.
  std::string text(const std::string& model, const vmoe::BatcherLoad& load, int64_t unturned) const;

 private:
  struct Histogram {
    std::array<uint64_t, std::size(kRequestBuckets) + 1> counts{};  // replies per bucket; the last has no upper bound
    double seconds = 0;
  };

  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, Histogram> replies_;  // by request and status
};
