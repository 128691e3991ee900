#include "levels.h"

#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <vmoe/levels.hpp>

namespace {

vmoe::Profile resolved(const vmoe::Engine& engine, const vmoe::Setting& setting) {
  auto profile = engine.setting(setting);
  if (!profile) throw UsageError(profile.error().message);
  return std::move(*profile);
}

// Returns the profiles from which elastic capacity may choose, in order of rising accuracy.
std::vector<vmoe::Profile> chosen_profiles(const Options& options, const vmoe::Engine& engine) {
  vmoe::Setting setting;
  std::vector<vmoe::Profile> profiles;
  for (const std::string& name : options.profiles) {
    setting.profile = name;
    profiles.push_back(resolved(engine, setting));
  }
  if (!options.capacity.empty()) profiles.clear();
  for (const double ratio : options.capacity) {
    setting.capacity_ratio = ratio;
    vmoe::Profile profile = resolved(engine, setting);
    // Skips a capacity ratio that rounds to the same slots as the ratio before it.
    if (profiles.empty() || profiles.back().effective_ratio != profile.effective_ratio) {
      profiles.push_back(std::move(profile));
    }
  }
  if (!profiles.empty()) return profiles;
  profiles = engine.profiles();
  const auto cost = [](const vmoe::Profile& p) {
    return p.effective_ratio * static_cast<double>(std::max<int64_t>(p.k, 1));
  };
  std::stable_sort(profiles.begin(), profiles.end(), [&](const auto& a, const auto& b) { return cost(a) < cost(b); });
  return profiles;
}

}  // namespace

std::vector<std::string> choose_levels(const Options& options, const vmoe::Engine& engine,
                                       vmoe::BatcherOptions& batching) {
  if (engine.profiles().empty()) throw UsageError("--slo-ms chooses between profiles, and the bundle has none");
  std::vector<std::string> names;
  for (const vmoe::Profile& profile : chosen_profiles(options, engine)) names.push_back(profile.name);
  auto timed = vmoe::time_levels(engine, names, options.batch_size);
  if (!timed) throw std::runtime_error(timed.error().message);
  batching.levels = timed->names;
  batching.plan.levels = timed->levels;
  batching.plan.target = options.slo_ms / 1e3;
  std::vector<std::string> notes = timed->left_out;
  const vmoe::ElasticLevel& cheapest = timed->levels.front();
  // An image that arrives during a call waits until that call ends, and then until its own call ends. Therefore, the
  // time that two calls take is the lowest latency that can be guaranteed.
  const double least_ms = 2e3 * (cheapest.fixed + cheapest.each);
  if (least_ms > options.slo_ms) {
    char text[300];
    std::snprintf(text, sizeof(text), "--slo-ms %.3g can't be kept: two calls of one image at %s take %.3g ms here",
                  options.slo_ms, timed->names.front().c_str(), least_ms);
    notes.emplace_back(text);
  }
  return notes;
}
