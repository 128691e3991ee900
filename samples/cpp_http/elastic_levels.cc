#include "elastic_levels.h"

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <stdexcept>
#include <vmoe/levels.hpp>

namespace {

vmoe::Profile resolved(const vmoe::Engine& engine, const vmoe::Setting& setting) {
  auto profile = engine.setting(setting);
  if (!profile) throw UsageError(profile.error().message);
  return std::move(*profile);
}

bool same_routing(const vmoe::Profile& a, const vmoe::Profile& b) {
  return a.slots == b.slots && a.k == b.k && a.bpr == b.bpr && a.pool == b.pool && a.max_experts == b.max_experts;
}

// The least accurate first.
std::vector<vmoe::Profile> chosen_profiles(const Options& options, const vmoe::Engine& engine) {
  vmoe::Setting base;
  std::vector<vmoe::Profile> profiles;
  for (const std::string& name : options.profiles) {
    base.profile = name;
    profiles.push_back(resolved(engine, base));
  }
  if (!options.capacity.empty()) {
    profiles.clear();
    for (const double ratio : options.capacity) {
      base.capacity_ratio = ratio;
      const vmoe::Profile profile = resolved(engine, base);
      // Ratios may differ where whole places don't.
      if (profiles.empty() || !same_routing(profiles.back(), profile)) profiles.push_back(profile);
    }
  }
  if (profiles.empty()) {
    profiles = engine.profiles();
    const auto places = [](const vmoe::Profile& profile) {
      return std::accumulate(profile.slots.begin(), profile.slots.end(), int64_t{0});
    };
    std::stable_sort(profiles.begin(), profiles.end(),
                     [&](const vmoe::Profile& a, const vmoe::Profile& b) { return places(a) < places(b); });
  }
  return profiles;
}

}  // namespace

std::vector<std::string> choose_levels(const Options& options, const vmoe::Engine& engine,
                                       vmoe::BatcherOptions& batching) {
  if (engine.profiles().empty()) throw UsageError("--slo-ms chooses between settings, and the bundle has none");
  std::vector<std::string> names;
  for (const vmoe::Profile& profile : chosen_profiles(options, engine)) names.push_back(profile.name);
  auto timed = vmoe::time_levels(engine, names, options.most_images);
  if (!timed) throw std::runtime_error(timed.error().message);
  batching.levels = timed->names;
  batching.plan.levels = timed->levels;
  batching.plan.target = options.target;
  std::vector<std::string> notes = timed->left_out;
  const vmoe::ElasticLevel& cheapest = timed->levels.front();
  const double least = 2 * (cheapest.fixed + cheapest.each);
  if (least > options.target) {
    char text[300];
    std::snprintf(
        text, sizeof(text),
        "the target of %.3g ms can't be kept: two calls of one image at %s take %.3g ms here, and an image that "
        "comes while another one is served waits for both",
        options.target * 1e3, timed->names.front().c_str(), least * 1e3);
    notes.emplace_back(text);
  }
  return notes;
}
