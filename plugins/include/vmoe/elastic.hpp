// C++17 wrapper of elastic.h: header only, errors as values.
//
//   vmoe::ElasticPlan plan;
//   plan.levels = {{0.001, 0.0002}, {0.001, 0.0005}};  // the times of two settings, the cheaper one first
//   plan.target = 0.05;
//   auto elastic = vmoe::Elastic::create(plan, now);
//   if (!elastic) return fail(elastic.error().message);
//   auto next = elastic->decide({now, waiting, oldest, arrived});
//   engine.run(images, settings[next->level], ...);  // of next->images at most
//   elastic->served(next->level, count, seconds);
//
// One object is used by one thread at a time.
#ifndef VMOE_ELASTIC_HPP_
#define VMOE_ELASTIC_HPP_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "vmoe/elastic.h"
#include "vmoe/engine.hpp"

namespace vmoe {

// A setting whose calls take `fixed + each * images` seconds.
using ElasticLevel = vmoe_elastic_level;

// What the decisions keep to.
struct ElasticPlan {
  std::vector<ElasticLevel> levels;  // the cheapest first
  double target = 0;                 // seconds from a request's arrival to its answer
  int64_t most_images = 1;           // of a call; a multiple of `multiple`
  int64_t multiple = 1;              // Info::batch_multiple
};

// What is known when a call is about to be made.
struct ElasticSeen {
  double time = 0;      // seconds, of a clock that never goes back
  int64_t waiting = 0;  // images in the queue
  double oldest = 0;    // seconds for which the first of them has waited
  int64_t arrived = 0;  // images that came since the last decision
};

// What the next call is.
struct ElasticDecision {
  size_t level = 0;    // index among the levels
  int64_t images = 0;  // the most that it takes
  double load = 0;     // seconds of such calls that the images of one second need
};

class Elastic {
 public:
  // time: now. It starts at the highest level.
  static Result<Elastic> create(const ElasticPlan& plan, double time) {
    const vmoe_elastic_options options{sizeof(options), plan.target, plan.most_images, plan.multiple, time};
    vmoe_elastic* handle = nullptr;
    static constexpr ElasticLevel kNone{};
    const ElasticLevel* levels = plan.levels.empty() ? &kNone : plan.levels.data();
    if (auto* status = vmoe_elastic_create(&options, levels, plan.levels.size(), &handle)) {
      return internal::take(status);
    }
    return Elastic(handle);
  }

  Result<ElasticDecision> decide(const ElasticSeen& seen) {
    const vmoe_elastic_seen c{sizeof(c), seen.time, seen.waiting, seen.oldest, seen.arrived};
    vmoe_elastic_decision next = VMOE_ELASTIC_DECISION_INIT;
    if (auto* status = vmoe_elastic_decide(handle_.get(), &c, &next)) return internal::take(status);
    return ElasticDecision{static_cast<size_t>(next.level), next.images, next.load};
  }

  // Learns what a call took. Returns the level.
  Result<size_t> served(size_t level, int64_t images, double seconds) {
    if (auto* status = vmoe_elastic_served(handle_.get(), static_cast<int64_t>(level), images, seconds)) {
      return internal::take(status);
    }
    return level;
  }

 private:
  explicit Elastic(vmoe_elastic* handle) : handle_(handle) {}

  std::unique_ptr<vmoe_elastic, internal::Free<vmoe_elastic_free>> handle_;
};

}  // namespace vmoe

#endif  // VMOE_ELASTIC_HPP_
