// Collects the service's metrics and writes them as Prometheus text.
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
  // Counts a reply. request: the label of a route, or "server".
  void replied(const std::string& request, int status, double seconds);

  // unturned: number of pictures so far whose EXIF orientation was ignored.
  std::string text(const std::string& model, const vmoe::BatcherLoad& load, int64_t unturned) const;

 private:
  struct Histogram {
    std::array<uint64_t, std::size(kRequestBuckets) + 1> counts{};  // not cumulative; the last has no upper bound
    double seconds = 0;
  };

  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, Histogram> replies_;  // by request and status
};
