#include "metrics.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

namespace {

// A name between quotes, escaped: JSON escapes as Prometheus does.
std::string quoted(const std::string& name) { return nlohmann::json(name).dump(); }

void begin(std::ostream& out, const char* name, const char* type, const char* help) {
  out << "# HELP " << name << ' ' << help << "\n# TYPE " << name << ' ' << type << '\n';
}

}  // namespace

void Metrics::replied(const std::string& request, int status, double seconds) {
  const std::lock_guard lock(mutex_);
  Histogram& histogram = replies_[{request, status}];
  ++histogram.counts[std::lower_bound(kBuckets.begin(), kBuckets.end(), seconds) - kBuckets.begin()];
  histogram.seconds += seconds;
}

std::string Metrics::text(const std::string& model, const vmoe::BatcherLoad& load) const {
  const std::lock_guard lock(mutex_);
  std::ostringstream out;
  out.precision(10);
  const std::string label = "{model=" + quoted(model);
  begin(out, "vmoe_request_seconds", "histogram", "Seconds from a request to its reply.");
  for (const auto& [key, histogram] : replies_) {
    const std::string labels = label + ",request=\"" + key.first + "\",status=\"" + std::to_string(key.second) + '"';
    uint64_t total = 0;
    for (size_t i = 0; i < histogram.counts.size(); ++i) {
      total += histogram.counts[i];
      out << "vmoe_request_seconds_bucket" << labels << ",le=\"";
      (i < kBuckets.size() ? out << kBuckets[i] : out << "+Inf") << "\"} " << total << '\n';
    }
    out << "vmoe_request_seconds_count" << labels << "} " << total << '\n';
    out << "vmoe_request_seconds_sum" << labels << "} " << histogram.seconds << '\n';
  }
  begin(out, "vmoe_images_served_total", "counter", "Images that were answered, by the setting that served them.");
  for (const auto& [setting, images] : load.served) {
    out << "vmoe_images_served_total" << label << ",setting=" << quoted(setting) << "} " << images << '\n';
  }
  const auto single = [&](const char* name, const char* type, const char* help, auto value) {
    begin(out, name, type, help);
    out << name << label << "} " << value << '\n';
  };
  single("vmoe_images_waiting", "gauge", "Images in the queue.", load.waiting);
  single("vmoe_calls_total", "counter", "Calls of the engine.", load.calls);
  single("vmoe_busy_seconds_total", "counter", "Seconds of these calls.", load.busy);
  single("vmoe_requests_refused_total", "counter", "Requests that found the queue full.", load.refused);
  single("vmoe_requests_cancelled_total", "counter", "Requests whose client disconnected in the queue.",
         load.cancelled);
  return out.str();
}
