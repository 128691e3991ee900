// C++17 wrapper of elastic.h. It is header only and returns errors as values.
//
//   vmoe::ElasticPlan plan;
//   plan.levels = {{0.001, 0.0002}, {0.001, 0.0005}};  // the times of two settings, the cheaper setting first
//   plan.target = 0.05;
//   auto elastic = vmoe::Elastic::create(plan, now);
//   if (!elastic) return fail(elastic.error().message);
//   auto next = elastic->decide({now, waiting, oldest, arrived});
//   engine.run(images, settings[next->level], ...);  // at most next->images images
//   elastic->served(next->level, count, seconds);
//
// An object of class Elastic must not be used by several threads at once.
#ifndef VMOE_ELASTIC_HPP_
#define VMOE_ELASTIC_HPP_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "vmoe/elastic.h"
#include "vmoe/engine.hpp"

namespace vmoe {

// How long calls with a setting take. A call with n images takes `fixed + each * n` seconds.
using ElasticLevel = vmoe_elastic_level;

// The levels that elastic capacity chooses from, and the limits that it must respect.
struct ElasticPlan {
  std::vector<ElasticLevel> levels;  // the cheapest first
  double target = 0;                 // maximum seconds from a request's arrival to its answer
  int64_t most_images = 1;           // maximum number of images per call, a multiple of `multiple`
  int64_t multiple = 1;              // Info::batch_multiple
};

// The state of the queue just before a call.
struct ElasticSeen {
  double time = 0;      // the current time, in seconds of a monotonic clock
  int64_t waiting = 0;  // images in the queue
  double oldest = 0;    // seconds that the oldest image in the queue has waited
  int64_t arrived = 0;  // number of images that arrived since the last decision
};

// The level and the size of the next call.
struct ElasticDecision {
  size_t level = 0;    // index of the level
  int64_t images = 0;  // maximum number of images in the call
  double load = 0;     // utilization: seconds of calls needed for the images that arrive in one second
};

class Elastic {
 public:
  // Creates an object that starts at the highest level. `time` is the current time, on the same clock as
  // ElasticSeen::time.
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

  // Chooses the level and the size of the next call. Must run just before that call.
  Result<ElasticDecision> decide(const ElasticSeen& seen) {
    const vmoe_elastic_seen c{sizeof(c), seen.time, seen.waiting, seen.oldest, seen.arrived};
    vmoe_elastic_decision next = VMOE_ELASTIC_DECISION_INIT;
    if (auto* status = vmoe_elastic_decide(handle_.get(), &c, &next)) return internal::take(status);
    return ElasticDecision{static_cast<size_t>(next.level), next.images, next.load};
  }

  // Records that a call at `level` with `images` images took `seconds` seconds. Returns `level`.
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
