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

// What names of profiles have of a value.
const std::regex& pattern_of(SettingType type) {
  static const std::regex ratio("[0-9]+(\\.[0-9]+)?(e-?[0-9]+)?"), whole("[0-9]{1,6}"), flag("");
  return type == SettingType::kRatio ? ratio : type == SettingType::kWhole ? whole : flag;
}

// Takes a part of a name, with the dash before it, off the beginning of a text. Returns its value; nothing, and the
// text as it was, if the text begins otherwise.
std::optional<std::string> take_part(const SettingRow& row, std::string_view& text) {
  const std::string before = std::string("-") + row.suffix;
  if (text.substr(0, before.size()) != before) return std::nullopt;
  const std::string_view rest = text.substr(before.size());
  std::match_results<std::string_view::const_iterator> value;
  const auto from_the_start = std::regex_constants::match_continuous;
  if (!std::regex_search(rest.begin(), rest.end(), value, pattern_of(row.type), from_the_start)) return std::nullopt;
  text = rest.substr(static_cast<size_t>(value.length()));
  return value.str();
}

std::string range_text(const SettingRow& row) {
  if (row.type == SettingType::kFlag) return "0 or 1";
  if (row.most == std::numeric_limits<int64_t>::max()) return "at least " + std::to_string(row.least);
  return "between " + std::to_string(row.least) + " and " + in_thousands(row.most);
}

// Whether models of a kind can have what a name says, and need no more than that.
bool suits_a_kind(int said) {
  for (unsigned kind = 1; kind <= kOfSoft; kind <<= 1) {
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
      // That of experts choice keeps its point, which nothing else tells from a whole number.
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
  const std::string whole = "-" + std::string(name);
  std::string_view rest = whole;
  vmoe_setting setting = default_setting();
  for_each_setting([&](const SettingRow& row, auto field, auto) {
    const auto value = take_part(row, rest);
    if (!value) return;
    setting.set |= row.bit;
    if constexpr (std::is_floating_point_v<std::remove_reference_t<decltype(setting.*field)>>) {
      setting.*field = parse_decimal(*value);
    } else {
      const int64_t number = row.type == SettingType::kFlag ? 1 - row.fallback : std::stol(*value);
      setting.*field = static_cast<std::remove_reference_t<decltype(setting.*field)>>(number);
    }
  });
  if (!rest.empty() || !suits_a_kind(setting.set)) return std::nullopt;
  return setting;
}

int needed_settings(unsigned kinds) {
  int needed = 0;
  for (const SettingRow& row : kSettingRows) needed |= row.is_needed && (row.kinds & kinds) != 0 ? row.bit : 0;
  return needed;
}

}  // namespace vmoe::sdk
