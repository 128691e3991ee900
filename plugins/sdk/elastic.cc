#include "sdk/elastic.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "sdk/error.h"
#include "sdk/generated/bundle_rules.h"

namespace vmoe::sdk {
namespace {

void check(const ElasticPlan& plan) {
  const auto& levels = plan.levels;
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

}  // namespace

Elastic::Elastic(ElasticPlan plan, double time) : plan_(std::move(plan)) {
  check(plan_);
  level_ = plan_.levels.size() - 1;
  scales_.assign(plan_.levels.size(), 1.0);
  began_ = time - plan_.target;
  time_ = time;
}

void Elastic::decide(const ElasticSeen& seen) {
  count_arrivals(seen);
  size_t level = level_;
  while (level > 0 && !(in_time(level, seen) && load(level) <= kUtilizationLimit)) --level;
  if (level < level_) {
    level_ = level;
    affordable_since_.reset();
    return;
  }
  size_t best = level;
  while (best + 1 < plan_.levels.size() && affordable(best + 1, seen)) ++best;
  if (best == level) {
    affordable_since_.reset();
    return;
  }
  if (!affordable_since_) affordable_since_ = seen.time;
  if (seen.time - *affordable_since_ < kCooldown * plan_.target) return;
  level_ = best;
  affordable_since_.reset();
}

void Elastic::served(size_t level, int64_t images, double seconds) {
  if (!(seconds > 0 && std::isfinite(seconds))) return;
  const double old = scales_[level];
  const double ratio = seconds / (plan_.levels[level].fixed + plan_.levels[level].each * static_cast<double>(images));
  // One call that was held up says little.
  const double now = std::clamp(old + (std::min(ratio, 2 * old) - old) * kLearned, kLeastScale, kMostScale);
  // What slowed this level down may have slowed down the others; and what held them up once may be over.
  for (double& scale : scales_) scale += (now - scale) * kDrift;
  scales_[level] = now;
}

int64_t Elastic::images_per_call(size_t level) const {
  const ElasticLevel& at = plan_.levels[level];
  // An image may wait for one such call before it is in the next one.
  const double images = (plan_.target * kSafetyMargin / (2 * scales_[level]) - at.fixed) / at.each;
  if (images >= static_cast<double>(plan_.most_images)) return plan_.most_images;
  if (images < static_cast<double>(plan_.multiple)) return plan_.multiple;
  return static_cast<int64_t>(images) / plan_.multiple * plan_.multiple;
}

double Elastic::load(size_t level) const {
  const int64_t images = images_per_call(level);
  return rate_ * seconds(level, images) / static_cast<double>(images);
}

void Elastic::count_arrivals(const ElasticSeen& seen) {
  arrived_ += static_cast<double>(seen.arrived);
  const double elapsed = seen.time - time_;
  if (!(elapsed > 0)) return;
  // At first the mean of what there was.
  const double span = std::min(kMemory * plan_.target + elapsed, seen.time - began_);
  rate_ = rate_ + (arrived_ / elapsed - rate_) * (elapsed / span);
  arrived_ = 0;
  time_ = seen.time;
}

double Elastic::seconds(size_t level, int64_t images) const {
  return scales_[level] * (plan_.levels[level].fixed + plan_.levels[level].each * static_cast<double>(images));
}

// Whether the first of the queue and its last are answered in time, if nothing changes.
bool Elastic::in_time(size_t level, const ElasticSeen& seen) const {
  const double limit = plan_.target * kSafetyMargin;
  const int64_t images = images_per_call(level), calls = seen.waiting / images, rest = seen.waiting % images;
  const double whole = static_cast<double>(calls) * seconds(level, images);
  const double last = whole + (rest != 0 ? seconds(level, rest) : 0.0);
  return last <= limit && seen.oldest + seconds(level, std::min(seen.waiting, images)) <= limit;
}

bool Elastic::affordable(size_t level, const ElasticSeen& seen) const {
  return load(level) <= kHeadroom && in_time(level, seen);
}

}  // namespace vmoe::sdk
