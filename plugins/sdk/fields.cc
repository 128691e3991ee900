#include "sdk/fields.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "sdk/error.h"
#include "sdk/generated/bundle_rules.h"

namespace vmoe::sdk {

namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

bool is_of(const Json& value, FieldType type) {
  switch (type) {
    case FieldType::kObject: return value.is_object();
    case FieldType::kList: return value.is_array();
    case FieldType::kText: return value.is_string();
    case FieldType::kNumber: return value.is_number();
    case FieldType::kFlag: return value.is_boolean();
    default: return value.is_number_integer();
  }
}

void check_value(const Json* value, const Field& field) {
  if (value == nullptr || !is_of(*value, field.type)) {
    fail(VMOE_BUNDLE_ERROR, "'", field.key, "' is missing or of the wrong type");
  }
  // Compares the value as a JSON number. A comparison as an int64_t would be wrong for numbers that need more than 63
  // bits, which the JSON library stores as unsigned.
  const int least = field.type == FieldType::kWhole ? 1 : 0;
  const bool is_whole = field.type == FieldType::kWhole || field.type == FieldType::kCount;
  if (is_whole && (*value < least || *value > field.most)) {
    fail(VMOE_BUNDLE_ERROR, "'", field.key, "' is ", value->dump(), ", which is out of range, ", least, " to ",
         field.most);
  }
  if (field.choices[0] == nullptr) return;
  std::string choices;
  for (const char* choice : field.choices) {
    if (choice == nullptr) break;
    if (*value == choice) return;
    choices += (choices.empty() ? "" : ", ") + std::string(choice);
  }
  fail(VMOE_BUNDLE_ERROR, "'", field.key, "' is ", in_quotes(value->get_ref<const std::string&>()), ", not one of ",
       choices);
}

const char* name_of(unsigned kind) {
  size_t index = 0;
  while (kind >> index > 1) ++index;
  return kSettingKinds[index];
}

}  // namespace

Json parse_json(std::string_view text) {
  // Refuses a byte order mark, because the parser would skip it. Refuses a zero byte, because the parser would treat it
  // as the end of the text.
  if (text.find('\0') != std::string_view::npos || text.substr(0, kByteOrderMark.size()) == kByteOrderMark) {
    fail(VMOE_BUNDLE_ERROR, kManifestName, " is not readable JSON");
  }
  bool too_deep = false;
  std::optional<std::string> twice;
  std::vector<std::set<std::string>> keys;  // the keys read so far in each object that is not closed yet
  const auto check = [&](int depth, Json::parse_event_t event, Json& parsed) {
    using Event = Json::parse_event_t;
    const bool opens = event == Event::object_start || event == Event::array_start;
    too_deep = too_deep || (opens && depth >= kMaxJsonDepth);
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

const Json* optional_field(const Json& object, const char* key) {
  const auto entry = object.find(key);
  return entry == object.end() || entry->is_null() ? nullptr : &*entry;
}

void check_fields(const Json& content, const Field* fields, size_t count, unsigned kind) {
  for (const Field* field = fields; field != fields + count; ++field) {
    const Json* holder = *field->parent == '\0' ? &content : optional_field(content, field->parent);
    if (holder == nullptr) continue;
    const Json* value = optional_field(*holder, field->key);
    const bool has = (field->kinds & kind) != 0;
    if (!has && value != nullptr) {
      fail(VMOE_BUNDLE_ERROR, "'", field->key, "' means nothing with ", name_of(kind));
    }
    if (value == nullptr && (field->optional || !has)) continue;
    check_value(value, *field);
  }
}

}  // namespace vmoe::sdk
