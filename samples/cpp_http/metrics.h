// What the service counts, in Prometheus text.
#ifndef VMOE_HTTP_METRICS_H_
#define VMOE_HTTP_METRICS_H_

#include <prometheus/family.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <string>
#include <vmoe/batcher.hpp>

class Metrics {
 public:
  Metrics(const std::string& model, const vmoe::Batcher& batcher);

  // Counts a reply. request: "classify", "infer", "model" or "server".
  void replied(const std::string& request, int status, double seconds);

  std::string text() const;

 private:
  const std::string model_;
  const vmoe::Batcher& batcher_;
  prometheus::Registry registry_;
  prometheus::Family<prometheus::Histogram>& replies_;
};

#endif  // VMOE_HTTP_METRICS_H_
