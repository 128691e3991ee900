// Elastic capacity: which of several settings the next call runs with, so that answers keep to a latency target.
//
// docs/elastic.md derives the rules. They are plain double arithmetic in the order of the Python package's
// vmoe_runtime/elastic.py, so that both decide the same.
#ifndef VMOE_SDK_ELASTIC_H_
#define VMOE_SDK_ELASTIC_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace vmoe::sdk {

// A setting whose calls take `fixed + each * images` seconds.
struct ElasticLevel {
  double fixed = 0;
  double each = 0;
};

// What the decisions keep to.
struct ElasticPlan {
  std::vector<ElasticLevel> levels;  // the cheapest first
  double target = 0;                 // seconds from a request's arrival to its answer
  int64_t most_images = 1;           // of a call, a multiple of `multiple`
  int64_t multiple = 1;
};

// What is known when a call is about to be made.
struct ElasticSeen {
  double time = 0;      // seconds, of a clock that never goes back
  int64_t waiting = 0;  // images in the queue
  double oldest = 0;    // seconds for which the first of them has waited
  int64_t arrived = 0;  // images that came since the last decision
};

// The decisions, and what they remember.
class Elastic {
 public:
  // plan: of one level at least.
  // Throws VMOE_ARGUMENT_ERROR: it makes no sense.
  Elastic(ElasticPlan plan, double time);

  // Decides on the level of the next call. Down at once and as far as needed, where the queue would not be served in
  // time or the load is too much; up after a while in which a higher level was affordable, and then as far as is
  // affordable.
  void decide(const ElasticSeen& seen);

  // Learns what a call took; what is no positive number of seconds is ignored.
  void served(size_t level, int64_t images, double seconds);

  size_t level() const { return level_; }
  size_t num_levels() const { return plan_.levels.size(); }

  // The most images that a call at a level takes.
  int64_t images_per_call(size_t level) const;

  // Seconds of calls at a level that the images of one second need.
  double load(size_t level) const;

 private:
  void count_arrivals(const ElasticSeen& seen);
  double seconds(size_t level, int64_t images) const;
  bool in_time(size_t level, const ElasticSeen& seen) const;
  bool affordable(size_t level, const ElasticSeen& seen) const;

  ElasticPlan plan_;
  size_t level_;
  std::vector<double> scales_;  // of each level: what its calls took over what the plan says
  double rate_ = 0;             // images per second that arrive
  double arrived_ = 0;          // since the last decision that any time had gone by at
  double began_, time_;         // a target before the start, and the time of that decision
  std::optional<double> affordable_since_;
};

}  // namespace vmoe::sdk

#endif  // VMOE_SDK_ELASTIC_H_
