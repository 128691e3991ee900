#include "ops/routing_settings.h"

#include <string>

#include "ops/op_error.h"

namespace vmoe::ops {
namespace {

// In the order of kSettingNames.
constexpr int64_t kMinimum[] = {1, 1, 0, 0, 1};
constexpr int64_t kMaximum[] = {kNoMaximum, kNoMaximum, 1, 1, kNoMaximum};

}  // namespace

void RoutingSettings::check() const {
  for (size_t i = 0; i < values.size(); ++i) {
    if (const std::optional<int64_t>& value = values[i])
      check_range(kSettingNames[i], *value, kMinimum[i], kMaximum[i]);
  }
}

int64_t RoutingSettings::known(size_t index) const {
  const std::optional<int64_t>& value = values[index];
  if (!value) throw OpError(std::string(kSettingNames[index]) + " is neither an input nor an attribute");
  return *value;
}

RoutingSettings read_routing_settings(const OpSpec& spec, const ReadAttribute& read) {
  RoutingSettings settings;
  for (size_t i = 0; i < spec.settings(); ++i) settings.values[i] = read(kSettingNames[i]);
  settings.check();
  return settings;
}

}  // namespace vmoe::ops
