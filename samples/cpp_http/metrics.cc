#include "metrics.h"

#include <prometheus/client_metric.h>
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <utility>
#include <vector>

namespace {

using Label = prometheus::ClientMetric::Label;

const prometheus::Histogram::BucketBoundaries kSeconds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                          0.25,  0.5,    1,     2.5,  5,     10};

prometheus::ClientMetric counted(std::vector<Label> labels, double value) {
  prometheus::ClientMetric metric;
  metric.label = std::move(labels);
  metric.counter.value = value;
  return metric;
}

}  // namespace

Metrics::Metrics(const std::string& model, const vmoe::Batcher& batcher)
    : model_(model),
      batcher_(batcher),
      replies_(prometheus::BuildHistogram()
                   .Name("vmoe_request_seconds")
                   .Help("Seconds from a request to its reply.")
                   .Register(registry_)) {}

void Metrics::replied(const std::string& request, int status, double seconds) {
  replies_.Add({{"model", model_}, {"request", request}, {"status", std::to_string(status)}}, kSeconds)
      .Observe(seconds);
}

std::string Metrics::text() const {
  std::vector<prometheus::MetricFamily> families = registry_.Collect();
  const vmoe::BatcherLoad load = batcher_.load();
  const Label model{"model", model_};
  prometheus::MetricFamily waiting{"vmoe_images_waiting", "Images in the queue.", prometheus::MetricType::Gauge, {}};
  waiting.metric.emplace_back();
  waiting.metric.back().label = {model};
  waiting.metric.back().gauge.value = static_cast<double>(load.waiting);
  families.push_back(std::move(waiting));
  prometheus::MetricFamily served{"vmoe_images_served_total",
                                  "Images that were answered, by the setting that served them.",
                                  prometheus::MetricType::Counter,
                                  {}};
  for (const auto& [setting, images] : load.served) {
    served.metric.push_back(counted({model, {"setting", setting}}, static_cast<double>(images)));
  }
  families.push_back(std::move(served));
  const std::tuple<const char*, const char*, double> counters[] = {
      {"vmoe_calls_total", "Calls of the engine.", static_cast<double>(load.calls)},
      {"vmoe_busy_seconds_total", "Seconds of these calls.", load.busy},
      {"vmoe_requests_refused_total", "Requests that found the queue full.", static_cast<double>(load.refused)},
      {"vmoe_requests_cancelled_total", "Requests whose client had gone before their turn came.",
       static_cast<double>(load.cancelled)},
  };
  for (const auto& [name, help, value] : counters) {
    families.push_back({name, help, prometheus::MetricType::Counter, {counted({model}, value)}});
  }
  return prometheus::TextSerializer().Serialize(families);
}
