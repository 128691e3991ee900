#include "requests.h"

#include <openssl/evp.h>

#include <algorithm>
#include <cctype>
#include <charconv>

namespace {

constexpr size_t kMostShown = 60;  // maximum bytes of a client's text that a message quotes
constexpr int kMostDepth = 64;     // maximum depth of nested JSON; limited because copying and printing are recursive
// Maximum number of JSON objects in a request. It is enough for a thousand outputs with parameters. The limit is needed
// because many objects make parsing slow. At the end of each object, the parser walks through the whole list that
// contains the object.
constexpr size_t kMostObjects = 2100;

int status_of(vmoe_code code) {
  switch (code) {
    case VMOE_ROUTING_ERROR:
    case VMOE_IMAGE_ERROR:
    case VMOE_ARGUMENT_ERROR: return 400;
    case VMOE_BUSY:
    case VMOE_CLOSED:
    case VMOE_CANCELLED:
    case VMOE_MEMORY_ERROR: return 503;
    default: return 500;
  }
}

bool decode_base64(std::string& text) {
  // Refuses two things that OpenSSL's decoder would accept. One is white space around the text. The other is the
  // character `=` inside the text, which the decoder would read as zeros.
  const size_t digits = text.find_last_not_of('=') + 1;
  const auto is_digit = [](unsigned char c) { return std::isalnum(c) != 0 || c == '+' || c == '/'; };
  if (text.size() - digits > 2 || !std::all_of(text.begin(), text.begin() + digits, is_digit)) return false;
  std::string bytes(text.size() / 4 * 3 + 3, '\0');
  const int size = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                                   reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  if (size < 0) return false;
  bytes.resize(static_cast<size_t>(size));
  for (int i = 0; i < 2 && text.size() > 2 && text[text.size() - 1 - i] == '='; ++i) bytes.pop_back();
  text = std::move(bytes);
  return true;
}

bool is_text(const Field& row, const Input& value) {
  if (!value.is_string() || value.get_ref<const std::string&>().size() < static_cast<size_t>(row.minimum)) return false;
  return row.choices[0] == nullptr ||
         std::any_of(std::begin(row.choices), std::end(row.choices),
                     [&](const char* choice) { return choice != nullptr && value == choice; });
}

bool fits(const Field& row, Input& value) {
  switch (row.type) {
    case FieldType::kAny: return true;
    case FieldType::kFlag: return value.is_boolean();
    case FieldType::kWhole: return value.is_number_integer() && value >= row.minimum && value <= kMaxWhole;
    case FieldType::kText: return is_text(row, value);
    case FieldType::kPicture: return value.is_string() && decode_base64(value.get_ref<std::string&>());
    case FieldType::kObject: return value.is_object();
  }
  return false;
}

void read_value(const Field& row, Input& value, const std::string& where) {
  if (!fits(row, value)) throw RequestError(kWrongField, where, row.takes, shown(value));
  if (row.type == FieldType::kObject) read_object(row.value_object, value, where + '.');
}

// Throws an error if the object can't have a field with this name. If `in_query` is true, also throws an error if the
// field is not allowed in a query. where: the object's path in the request.
void check_known(std::string_view object, const std::string& name, bool in_query, const std::string& where = "") {
  std::string known;
  for (const Field& row : kFields) {
    if (object != row.object || (in_query && !row.in_query)) continue;
    if (name == row.name || (!in_query && !row.is_exact)) return;
    known += (known.empty() ? "" : ", ") + std::string(row.name);
  }
  throw RequestError(kUnknownField, shown(where + name), known);
}

}  // namespace

RequestError::RequestError(const vmoe::Error& error) : RequestError(error.message, status_of(error.code)) {}

Input read_json(std::string_view text, size_t most_numbers, size_t most_others) {
  size_t numbers = 0, others = 0, objects = 0;
  const auto check = [&](int depth, Input::parse_event_t event, const Input& value) {
    if (event == Input::parse_event_t::array_end || event == Input::parse_event_t::object_end) return true;
    const bool nests = event == Input::parse_event_t::array_start || event == Input::parse_event_t::object_start;
    if (nests && depth >= kMostDepth) throw RequestError(kTooDeep, kMostDepth);
    ++(value.is_number() ? numbers : others);
    if (event == Input::parse_event_t::object_start) ++objects;
    if (numbers > most_numbers || others > most_others || objects > kMostObjects) throw RequestError(kTooManyValues);
    return true;
  };
  Input object;
  try {
    object = Input::parse(text, check);
  } catch (const Input::exception& error) {
    // Shortens the parser's message. Removes "[json.exception.parse_error.101] " from the start. Also removes the end,
    // which shows the token that was read last and the token that was expected.
    const std::string what = error.what();
    const size_t from = std::min(what.size(), what.find("] ") + 2);
    throw RequestError(kNoJson, what.substr(from, std::min<size_t>(what.find("; ", from) - from, 100)));
  }
  if (!object.is_object()) throw RequestError(kNoObject);
  return object;
}

Input read_query(std::string_view object, std::string_view query) {
  Input values = Input::object();
  while (!query.empty()) {
    const std::string_view pair = query.substr(0, query.find('&'));
    const std::string name(pair.substr(0, pair.find('=')));
    const std::string_view text = pair.substr(std::min(pair.size(), name.size() + 1));
    query.remove_prefix(std::min(query.size(), pair.size() + 1));
    if (pair.empty()) continue;
    check_known(object, name, true);
    const auto number = whole_number(text);
    const bool is_whole = std::any_of(std::begin(kFields), std::end(kFields), [&](const Field& row) {
      return object == row.object && name == row.name && row.type == FieldType::kWhole;
    });
    values[name] = is_whole && number ? Input(*number) : Input(text);
  }
  return values;
}

void read_object(std::string_view name, Input& object, const std::string& where, size_t most_items) {
  for (const auto& [key, value] : object.items()) check_known(name, key, false, where);
  for (const Field& row : kFields) {
    if (name != row.object) continue;
    Input& value = object[row.name];
    const std::string path = where + row.name;
    if (value.is_null() && row.is_required) throw RequestError(kNoField, path);
    if (value.is_null()) value = Input::parse(row.default_value);
    if (value.is_null()) continue;
    if (row.most == 0) {
      read_value(row, value, path);
      continue;
    }
    const size_t most = std::min(row.most, most_items);
    if (!value.is_array() || value.size() < row.fewest || value.size() > most) {
      throw RequestError(kWrongList, path, row.fewest, most);
    }
    for (size_t i = 0; i < value.size(); ++i) read_value(row, value[i], path + '.' + std::to_string(i));
  }
}

std::optional<int64_t> whole_number(std::string_view text) {
  int64_t value = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return !text.empty() && error == std::errc() && rest == text.data() + text.size() ? std::optional(value)
                                                                                    : std::nullopt;
}

std::string shown(const Input& value) {
  const std::string text = value.dump(-1, ' ', false, Input::error_handler_t::replace);
  return text.size() <= kMostShown ? text : text.substr(0, kMostShown) + "...";
}

std::string to_text(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }
