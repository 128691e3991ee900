#include "ops/settings.h"

#include <string>

namespace vmoe::ops {

int64_t Settings::known(size_t setting) const {
  const std::optional<int64_t>& value = values_[setting];
  if (!value) throw OpError(std::string(kSettings[setting].name) + " is neither an input nor an attribute");
  return *value;
}

void Settings::check() const {
  for (size_t i = 0; i < values_.size(); ++i) {
    if (const std::optional<int64_t>& value = values_[i]) {
      check_range(kSettings[i].name, *value, kSettings[i].minimum, kSettings[i].maximum);
    }
  }
}

std::vector<size_t> needed_settings(const OpSpec& spec) {
  std::vector<size_t> needed;
  for (const ValueSpec& input : spec.inputs) {
    if (input.presence == Presence::kSetting) needed.push_back(input.setting);
  }
  return needed;
}

Settings read_settings(const OpSpec& spec, const ReadAttribute& read) {
  Settings settings;
  for (const size_t setting : needed_settings(spec)) settings[setting] = read(kSettings[setting].name);
  settings.check();
  return settings;
}

}  // namespace vmoe::ops
