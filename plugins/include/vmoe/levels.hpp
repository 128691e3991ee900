// Measures how long calls take at each level of elastic capacity (elastic.hpp). This code must run on the machine that
// will serve the model. Header only; C++17.
//
//   auto timed = vmoe::time_levels(*engine, {"c0.2-k1", "c0.5-k1", "c1.05-k2"}, 32);
//   vmoe::BatcherOptions options;
//   options.levels = timed->names;
//   options.plan.levels = timed->levels;
//   options.plan.target = 0.05;
#ifndef VMOE_LEVELS_HPP_
#define VMOE_LEVELS_HPP_

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "vmoe/elastic.hpp"
#include "vmoe/engine.hpp"

namespace vmoe {

struct TimedLevels {
  std::vector<std::string> names;     // profile names, the cheapest profile first
  std::vector<ElasticLevel> levels;   // the times of each
  std::vector<std::string> left_out;  // a message for each profile that is no faster than a more accurate profile
};

namespace internal {

// Runs one call and returns the seconds that it took.
inline Result<double> timed_call(const Engine& engine, const Images& images, const Setting& setting) {
  const auto start = std::chrono::steady_clock::now();
  if (auto output = engine.run(images, setting); !output) return output.error();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Returns the line through two measured points: (1 image, `one` seconds) and (`most` images, `full` seconds). If that
// line falls, or is below 0 seconds at 0 images, returns the line through the origin and the second point.
inline ElasticLevel fitted_level(double one, double full, int64_t most) {
  const double each = most > 1 ? (full - one) / static_cast<double>(most - 1) : one, fixed = one - each;
  if (each <= 0 || fixed < 0) return {0, full / static_cast<double>(most)};
  return {fixed, each};
}

}  // namespace internal

// For each profile, measures how many seconds calls take with one image and with most_images images. Calls with
// different profiles alternate, so that a slow period of the machine affects all profiles. Returns the times of all
// profiles except those that are no faster than a more accurate profile.
//
// profiles: names of stored or systematic profiles, the least accurate first.
// most_images: maximum number of images per call, 1 to 65536.
//
// Fails with:
// - VMOE_ROUTING_ERROR if the bundle routes images in groups, because a call with one image is then impossible;
// - VMOE_ROUTING_ERROR if the model does not support a profile;
// - VMOE_ARGUMENT_ERROR if most_images is out of range;
// - VMOE_MEMORY_ERROR if there is not enough memory for the images;
// - VMOE_RUNTIME_ERROR if a call fails.
inline Result<TimedLevels> time_levels(const Engine& engine, const std::vector<std::string>& profiles,
                                       int64_t most_images) {
  constexpr int kRounds = 5;
  const Info& info = engine.info();
  if (info.batch_multiple != 1) {
    return Error{VMOE_ROUTING_ERROR, "this bundle routes images in groups (" + info.group +
                                         "), and levels are timed by calls of one image; export it with --group image"};
  }
  if (most_images < 1 || most_images > 65536) return Error{VMOE_ARGUMENT_ERROR, "most_images must be 1 to 65536"};
  std::vector<Setting> settings;
  for (const std::string& name : profiles) {
    Setting named;
    named.profile = name;
    const auto profile = engine.setting(named);
    if (!profile) return profile.error();
    settings.push_back(profile->setting());
  }
  std::vector<uint8_t> pixels(static_cast<size_t>(most_images * info.height * info.width * info.channels));
  std::minstd_rand noise(1);  // a fixed seed, so that every run has the same pixels
  std::generate(pixels.begin(), pixels.end(), [&noise] { return static_cast<uint8_t>(noise() >> 16); });
  const auto batch = [&](int64_t count) {
    return Images::uint8(pixels.data(), count, info.height, info.width, info.channels);
  };
  std::vector<std::vector<double>> one(profiles.size()), full(profiles.size());
  for (int round = 0; round <= kRounds; ++round) {
    for (size_t i = 0; i < profiles.size(); ++i) {
      const auto first = internal::timed_call(engine, batch(1), settings[i]);
      if (!first) return first.error();
      const auto second = internal::timed_call(engine, batch(most_images), settings[i]);
      if (!second) return second.error();
      if (round == 0) continue;  // warm-up
      one[i].push_back(*first);
      full[i].push_back(*second);
    }
  }
  TimedLevels timed;
  double cheapest = 0;  // seconds per call with most_images images at the cheapest level so far
  for (size_t i = profiles.size(); i-- > 0;) {
    const ElasticLevel level = internal::fitted_level(internal::median(one[i]), internal::median(full[i]), most_images);
    const double whole = level.fixed + level.each * static_cast<double>(most_images);
    if (!timed.names.empty() && whole >= cheapest) {
      timed.left_out.push_back(profiles[i] + " is left out: it takes no less time here than " + timed.names.back());
      continue;
    }
    timed.names.push_back(profiles[i]);
    timed.levels.push_back(level);
    cheapest = whole;
  }
  std::reverse(timed.names.begin(), timed.names.end());
  std::reverse(timed.levels.begin(), timed.levels.end());
  std::reverse(timed.left_out.begin(), timed.left_out.end());
  return timed;
}

}  // namespace vmoe

#endif  // VMOE_LEVELS_HPP_
