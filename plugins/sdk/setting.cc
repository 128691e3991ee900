#include "sdk/setting.h"

#include <limits>
#include <regex>
#include <type_traits>

#include "sdk/decimal.h"
#include "sdk/error.h"
#include "sdk/generated/bundle_rules.h"
#include "sdk/generated/setting_rows.h"

namespace vmoe::sdk {

namespace {

std::string range_text(const SettingRow& row) {
  if (row.type == SettingType::kFlag) return "0 or 1";
  if (row.most == std::numeric_limits<int64_t>::max()) return "at least " + std::to_string(row.least);
  return "between " + std::to_string(row.least) + " and " + in_thousands(row.most);
}

// Returns whether at least one routing kind has all settings in `said` and needs no other setting.
bool suits_a_kind(int said) {
  for (unsigned kind = 1; kind < kOfEnd; kind <<= 1) {
    int own = 0;
    for (const SettingRow& row : kSettingRows) own |= (row.kinds & kind) != 0 ? row.bit : 0;
    if ((said & ~own) == 0 && (needed_settings(kind) & ~said) == 0) return true;
  }
  return false;
}

}  // namespace

vmoe_setting default_setting() {
  vmoe_setting setting = VMOE_SETTING_INIT;
  for_each_setting([&](const SettingRow& row, auto field, auto) {
    setting.*field = static_cast<std::remove_reference_t<decltype(setting.*field)>>(row.fallback);
  });
  return setting;
}

vmoe_setting replaced(vmoe_setting base, const vmoe_setting& changes) {
  for_each_setting([&](const SettingRow& row, auto field, auto) {
    if ((changes.set & row.bit) != 0) base.*field = changes.*field;
  });
  base.set |= changes.set;
  return base;
}

void check_ranges(const vmoe_setting& setting) {
  for_each_setting([&](const SettingRow& row, auto field, auto) {
    if ((setting.set & row.bit) == 0 || row.most == 0) return;
    if (setting.*field >= row.least && setting.*field <= row.most) return;
    fail(VMOE_ROUTING_ERROR, row.name, " must be ", range_text(row), ", not ", setting.*field);
  });
}

std::string profile_name(const vmoe_setting& setting) {
  std::string name;
  for_each_setting([&](const SettingRow& row, auto field, auto) {
    if ((setting.set & row.bit) == 0) return;
    const auto value = setting.*field;
    if (!row.is_needed && value == row.fallback && !name.empty()) return;
    if (!name.empty()) name += '-';
    name += row.suffix;
    if constexpr (std::is_floating_point_v<decltype(value)>) {
      std::string ratio = shortest(value);
      // In names that contain only a ratio, as for expert choice, the ratio keeps its ".0". Without the ".0", the name
      // would look like a whole number. In names that also contain k, the ".0" is removed.
      const bool is_whole = ratio.size() > 2 && ratio.compare(ratio.size() - 2, 2, ".0") == 0;
      if (is_whole && (setting.set & VMOE_SET_K) != 0) ratio.resize(ratio.size() - 2);
      name += ratio;
    } else if (row.type == SettingType::kWhole) {
      name += std::to_string(value);
    }
  });
  return name;
}

std::optional<vmoe_setting> parse_profile_name(std::string_view name) {
  static const std::regex pattern(kProfilePattern);
  const std::string whole = "-" + std::string(name);
  std::smatch parts;
  if (!std::regex_match(whole, parts, pattern)) return std::nullopt;
  vmoe_setting setting = default_setting();
  size_t group = 0;
  for_each_setting([&](const SettingRow& row, auto field, auto) {
    const auto& value = parts[++group];
    if (!value.matched) return;
    setting.set |= row.bit;
    if constexpr (std::is_floating_point_v<std::remove_reference_t<decltype(setting.*field)>>) {
      setting.*field = parse_decimal(value.str());
    } else {
      const int64_t number = row.type == SettingType::kFlag ? 1 - row.fallback : std::stol(value.str());
      setting.*field = static_cast<std::remove_reference_t<decltype(setting.*field)>>(number);
    }
  });
  return suits_a_kind(setting.set) ? std::optional(setting) : std::nullopt;
}

int needed_settings(unsigned kinds) {
  int needed = 0;
  for (const SettingRow& row : kSettingRows) needed |= row.is_needed && (row.kinds & kinds) != 0 ? row.bit : 0;
  return needed;
}

}  // namespace vmoe::sdk
