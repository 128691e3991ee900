// Elastic capacity and its C API. Elastic capacity chooses the setting for the next call so that results meet a latency
// target.
//
// docs/elastic.md derives the rules. All arithmetic uses doubles and has the same order as in vmoe_serve/elastic.py.
// C++ and Python therefore make the same decisions.
#include "vmoe/elastic.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "sdk/c_status.h"
#include "sdk/error.h"
#include "sdk/generated/bundle_rules.h"

namespace vmoe::sdk {
namespace {

void check(const vmoe_elastic_options& plan, const std::vector<vmoe_elastic_level>& levels) {
  if (!(plan.target > 0 && plan.target <= kLongestSeconds)) {
    fail(VMOE_ARGUMENT_ERROR, "target must be more than 0 and at most ", static_cast<int64_t>(kLongestSeconds),
         " seconds");
  }
  if (plan.multiple < 1 || plan.multiple > kMostImages || plan.most_images < 1 || plan.most_images > kMostImages) {
    fail(VMOE_ARGUMENT_ERROR, "multiple and most_images must be from 1 to ", kMostImages);
  }
  if (plan.most_images % plan.multiple != 0) {
    fail(VMOE_ARGUMENT_ERROR, "most_images must be a multiple of ", plan.multiple, ", not ", plan.most_images);
  }
  double before = 0;
  for (size_t i = 0; i < levels.size(); ++i) {
    if (!(levels[i].fixed >= 0 && levels[i].fixed <= kLongestSeconds && levels[i].each > 0 &&
          levels[i].each <= kLongestSeconds)) {
      fail(VMOE_ARGUMENT_ERROR, "level ", i, ": the fixed time must be 0 or more seconds, and that per image more");
    }
    const double whole = levels[i].fixed + levels[i].each * static_cast<double>(plan.most_images);
    if (whole <= before) {
      fail(VMOE_ARGUMENT_ERROR, "levels must go from the cheapest to the most expensive, and a full call of level ", i,
           " takes no longer than one of level ", i - 1);
    }
    before = whole;
  }
}

// The decisions of elastic capacity, and the state that it keeps between them.
class Elastic {
 public:
  // levels: one or more, the cheapest first.
  //
  // Throws VMOE_ARGUMENT_ERROR if a level or option is invalid.
  Elastic(const vmoe_elastic_options& options, std::vector<vmoe_elastic_level> levels)
      : plan_(options),
        levels_(std::move(levels)),
        level_(levels_.size() - 1),
        scales_(levels_.size(), 1.0),
        began_(options.time - options.target),
        time_(options.time) {
    check(plan_, levels_);
  }

  // Chooses the level for the next call. Switches to a lower level at once if the current level would not serve the
  // queue in time, or if its load would be too high. Goes down only as far as needed. Switches to a higher level only
  // after some higher level has been affordable for a while. Then chooses the highest affordable level.
  void decide(const vmoe_elastic_seen& seen) {
    count_arrivals(seen);
    size_t level = level_;
    while (level > 0 && !(in_time(level, seen) && load(level) <= kUtilizationLimit)) --level;
    if (level < level_) {
      level_ = level;
      affordable_since_.reset();
      return;
    }
    size_t best = level;
    while (best + 1 < levels_.size() && affordable(best + 1, seen)) ++best;
    if (best == level) {
      affordable_since_.reset();
      return;
    }
    if (!affordable_since_) affordable_since_ = seen.time;
    if (seen.time - *affordable_since_ < kCooldown * plan_.target) return;
    level_ = best;
    affordable_since_.reset();
  }

  // Records how many seconds a call took. If `seconds` is not a positive finite number, does nothing.
  void served(size_t level, int64_t images, double seconds) {
    if (!(seconds > 0 && std::isfinite(seconds))) return;
    const double old = scales_[level];
    const double ratio = seconds / (levels_[level].fixed + levels_[level].each * static_cast<double>(images));
    // `ratio` compares the time of this call with its planned time. A single slow call is weak evidence, so the
    // ratio is limited to twice the old scale.
    const double now = std::clamp(old + (std::min(ratio, 2 * old) - old) * kLearned, kLeastScale, kMostScale);
    // If calls at this level have become slower or faster, calls at the other levels probably have too. Therefore, the
    // scales of all levels drift towards this level's new scale.
    for (double& scale : scales_) scale += (now - scale) * kDrift;
    scales_[level] = now;
  }

  size_t level() const { return level_; }
  size_t num_levels() const { return levels_.size(); }

  // Returns the maximum number of images in a call at `level`.
  int64_t images_per_call(size_t level) const {
    const vmoe_elastic_level& at = levels_[level];
    // An image may have to wait for one whole call before its own call starts, so a call may take half of the target
    // time.
    const double images = (plan_.target * kSafetyMargin / (2 * scales_[level]) - at.fixed) / at.each;
    if (images >= static_cast<double>(plan_.most_images)) return plan_.most_images;
    if (images < static_cast<double>(plan_.multiple)) return plan_.multiple;
    return static_cast<int64_t>(images) / plan_.multiple * plan_.multiple;
  }

  // Returns the utilization at `level`. This is the total call time, in seconds, that the images arriving in one second
  // need.
  double load(size_t level) const {
    const int64_t images = images_per_call(level);
    return rate_ * seconds(level, images) / static_cast<double>(images);
  }

 private:
  void count_arrivals(const vmoe_elastic_seen& seen) {
    arrived_ += static_cast<double>(seen.arrived);
    const double elapsed = seen.time - time_;
    if (!(elapsed > 0)) return;
    // At first, the span is the whole time since began_, so that the rate is the mean over all arrivals so far.
    const double span = std::min(kMemory * plan_.target + elapsed, seen.time - began_);
    rate_ = rate_ + (arrived_ / elapsed - rate_) * (elapsed / span);
    arrived_ = 0;
    time_ = seen.time;
  }

  double seconds(size_t level, int64_t images) const {
    return scales_[level] * (levels_[level].fixed + levels_[level].each * static_cast<double>(images));
  }

  // Assumes that all calls from now on are at this level and take as long as expected. Returns whether the oldest and
  // the newest image in the queue would then both get their results in time.
  bool in_time(size_t level, const vmoe_elastic_seen& seen) const {
    const double limit = plan_.target * kSafetyMargin;
    const int64_t images = images_per_call(level), calls = seen.waiting / images, rest = seen.waiting % images;
    const double whole = static_cast<double>(calls) * seconds(level, images);
    const double last = whole + (rest != 0 ? seconds(level, rest) : 0.0);
    return last <= limit && seen.oldest + seconds(level, std::min(seen.waiting, images)) <= limit;
  }

  bool affordable(size_t level, const vmoe_elastic_seen& seen) const {
    return load(level) <= kHeadroom && in_time(level, seen);
  }

  vmoe_elastic_options plan_;
  std::vector<vmoe_elastic_level> levels_;
  size_t level_;
  std::vector<double> scales_;  // for each level: measured call time divided by planned call time
  double rate_ = 0;             // arriving images per second
  double arrived_ = 0;          // images since time_
  double began_, time_;         // began_: start time minus `target`; time_: when a decision last advanced the clock
  std::optional<double> affordable_since_;
};

}  // namespace
}  // namespace vmoe::sdk

using namespace vmoe::sdk;  // the C API itself is declared outside any namespace

struct vmoe_elastic : Elastic {
  using Elastic::Elastic;
};

extern "C" {

vmoe_status* vmoe_elastic_create(const vmoe_elastic_options* options, const vmoe_elastic_level* levels,
                                 size_t num_levels, vmoe_elastic** elastic) {
  return guarded([&] {
    check_pointer(elastic, "elastic");
    *elastic = nullptr;
    check_pointer(options, "options");
    check_pointer(levels, "levels");
    const vmoe_elastic_options known = read_struct(options, "options");
    if (!std::isfinite(known.time)) fail(VMOE_ARGUMENT_ERROR, "options: time is no finite number");
    if (num_levels < 1 || num_levels > kMostLevels) {
      fail(VMOE_ARGUMENT_ERROR, "there must be 1 to ", kMostLevels, " levels, not ", num_levels);
    }
    *elastic = new vmoe_elastic(known, {levels, levels + num_levels});
  });
}

void vmoe_elastic_free(vmoe_elastic* elastic) { delete elastic; }

vmoe_status* vmoe_elastic_decide(vmoe_elastic* elastic, const vmoe_elastic_seen* seen,
                                 vmoe_elastic_decision* decision) {
  return guarded([&] {
    check_pointer(elastic, "elastic");
    check_pointer(seen, "seen");
    check_pointer(decision, "decision");
    const vmoe_elastic_seen known = read_struct(seen, "seen");
    if (!std::isfinite(known.time) || !(known.oldest >= 0) || known.waiting < 0 || known.arrived < 0) {
      fail(VMOE_ARGUMENT_ERROR, "seen: waiting, oldest and arrived must be 0 or more, and time a finite number");
    }
    elastic->decide(known);
    const size_t level = elastic->level();
    const vmoe_elastic_decision c{sizeof(c), static_cast<int64_t>(level), elastic->images_per_call(level),
                                  elastic->load(level)};
    write_struct(decision, c, "decision");
  });
}

vmoe_status* vmoe_elastic_served(vmoe_elastic* elastic, int64_t level, int64_t images, double seconds) {
  return guarded([&] {
    check_pointer(elastic, "elastic");
    const size_t index = check_index(level, elastic->num_levels(), "level");
    if (images < 1) fail(VMOE_ARGUMENT_ERROR, "images must be 1 or more, not ", images);
    elastic->served(index, images, seconds);
  });
}

}  // extern "C"
