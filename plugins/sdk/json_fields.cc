#include "sdk/json_fields.h"

#include <limits>
#include <optional>
#include <set>
#include <vector>

#include "sdk/error.h"
#include "sdk/manifest.h"

namespace vmoe::sdk {

namespace {

constexpr int kMaxDepth = 64;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

const Json* find(const Json& object, const char* key) {
  const auto entry = object.find(key);
  return entry == object.end() ? nullptr : &*entry;
}

const Json& checked(const Json& object, const char* key, bool (Json::*is_kind)() const noexcept) {
  const Json* value = find(object, key);
  if (value == nullptr || !(value->*is_kind)()) {
    fail(VMOE_BUNDLE_ERROR, kManifestName, ": '", key, "' is missing or of the wrong type");
  }
  return *value;
}

}  // namespace

Json parse_json(std::string_view text) {
  // The parser takes a zero byte for the end, and would believe a text that goes on after it. It skips a mark.
  if (text.find('\0') != std::string_view::npos || text.substr(0, kByteOrderMark.size()) == kByteOrderMark) {
    fail(VMOE_BUNDLE_ERROR, kManifestName, " is not readable JSON");
  }
  bool too_deep = false;
  std::optional<std::string> twice;
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int depth, Json::parse_event_t event, Json& parsed) {
    using Event = Json::parse_event_t;
    const bool opens = event == Event::object_start || event == Event::array_start;
    too_deep = too_deep || (opens && depth >= kMaxDepth);
    if (too_deep) return false;
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(parsed.get_ref<const std::string&>()).second) {
      twice = parsed.get<std::string>();
    }
    return true;
  };
  Json json = Json::parse(text.begin(), text.end(), check, /*allow_exceptions=*/false);
  if (too_deep) fail(VMOE_BUNDLE_ERROR, kManifestName, " is not readable JSON (nested too deeply)");
  if (json.is_discarded()) fail(VMOE_BUNDLE_ERROR, kManifestName, " is not readable JSON");
  if (twice) fail(VMOE_BUNDLE_ERROR, kManifestName, " is not readable JSON (the key ", in_quotes(*twice), " is twice)");
  return json;
}

const Json& object_field(const Json& object, const char* key) { return checked(object, key, &Json::is_object); }

const Json& array_field(const Json& object, const char* key) { return checked(object, key, &Json::is_array); }

std::string string_field(const Json& object, const char* key) {
  return checked(object, key, &Json::is_string).get_ref<const std::string&>();
}

bool bool_field(const Json& object, const char* key) { return checked(object, key, &Json::is_boolean).get<bool>(); }

double number_field(const Json& object, const char* key) {
  return checked(object, key, &Json::is_number).get<double>();
}

int64_t integer_field(const Json& object, const char* key) {
  const Json& value = checked(object, key, &Json::is_number_integer);
  // What doesn't fit stays out of every range that is asked for.
  if (value.is_number_unsigned() && value.get<uint64_t>() > std::numeric_limits<int64_t>::max()) {
    return std::numeric_limits<int64_t>::max();
  }
  return value.get<int64_t>();
}

const Json* optional_field(const Json& object, const char* key) {
  const Json* value = find(object, key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

int64_t positive_field(const Json& object, const char* key, int64_t limit) {
  const int64_t value = integer_field(object, key);
  if (value < 1 || value > limit) {
    fail(VMOE_BUNDLE_ERROR, kManifestName, ": '", key, "' is ", value, ", which is out of range, 1 to ", limit);
  }
  return value;
}

void only_field(const Json& object, const char* key, const char* value) {
  if (find(object, key) != nullptr) choice_field(object, key, {value});
}

size_t choice_field(const Json& object, const char* key, std::initializer_list<const char*> choices) {
  const Json* value = find(object, key);
  const bool text = value != nullptr && value->is_string();
  std::string list;
  size_t index = 0;
  for (const char* choice : choices) {
    if (text && value->get_ref<const std::string&>() == choice) return index;
    list += (index++ == 0 ? "" : ", ") + std::string(choice);
  }
  const std::string found = text ? in_quotes(value->get_ref<const std::string&>()) : "missing or no text";
  fail(VMOE_BUNDLE_ERROR, kManifestName, ": '", key, "' is ", found, ", not one of ", list);
}

}  // namespace vmoe::sdk
