// The metrics of the service, as Prometheus text.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vmoe/batcher.hpp>

// Safe for any number of threads.
class Metrics {
 public:
  // Counts a reply. request: the label of a route, or "server".
  void replied(const std::string& request, int status, double seconds);

  std::string text(const std::string& model, const vmoe::BatcherLoad& load) const;

 private:
  static constexpr std::array kBuckets = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0};
  struct Histogram {
    std::array<uint64_t, kBuckets.size() + 1> counts{};  // of each bucket alone; the last one has no upper bound
    double seconds = 0;
  };

  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, Histogram> replies_;  // by request and status
};
