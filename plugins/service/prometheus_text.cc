#include "prometheus_text.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

namespace {

// Returns a name in quotes, with special characters escaped. JSON escapes are used, because Prometheus uses the same
// ones.
std::string quoted(const std::string& name) { return nlohmann::json(name).dump(); }

void begin(std::ostream& out, const Metric& metric, const char* type) {
  out << "# HELP " << metric.name << ' ' << metric.help << "\n# TYPE " << metric.name << ' ' << type << '\n';
}

}  // namespace

void Metrics::replied(const std::string& request, int status, double seconds) {
  const std::lock_guard lock(mutex_);
  Histogram& histogram = replies_[{request, status}];
  ++histogram
        .counts[std::lower_bound(std::begin(kRequestBuckets), std::end(kRequestBuckets), seconds) - kRequestBuckets];
  histogram.seconds += seconds;
}

std::string Metrics::text(const std::string& model, const vmoe::BatcherLoad& load, int64_t unturned) const {
  const std::lock_guard lock(mutex_);
  std::ostringstream out;
  out.precision(15);
  const std::string label = "{model=" + quoted(model);
  begin(out, kRequestSeconds, "histogram");
  for (const auto& [key, histogram] : replies_) {
    const std::string labels = label + ",request=\"" + key.first + "\",status=\"" + std::to_string(key.second) + '"';
    uint64_t total = 0;
    for (size_t i = 0; i < histogram.counts.size(); ++i) {
      total += histogram.counts[i];
      out << kRequestSeconds.name << "_bucket" << labels << ",le=\"";
      (i < std::size(kRequestBuckets) ? out << kRequestBuckets[i] : out << "+Inf") << "\"} " << total << '\n';
    }
    out << kRequestSeconds.name << "_count" << labels << "} " << total << '\n';
    out << kRequestSeconds.name << "_sum" << labels << "} " << histogram.seconds << '\n';
  }
  begin(out, kServed, "counter");
  for (const auto& [setting, images] : load.served) {
    out << kServed.name << label << ",setting=" << quoted(setting) << "} " << images << '\n';
  }
  const auto single = [&](const Metric& metric, double value) {
    begin(out, metric, metric.is_gauge ? "gauge" : "counter");
    out << metric.name << label << "} " << value << '\n';
  };
  for (const Metric& metric : kNumbers) single(metric, metric.count(load));
  single(kUnturned, static_cast<double>(unturned));
  return out.str();
}
