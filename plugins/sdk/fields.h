// Checks the fields of JSON objects against tables that list the allowed values.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string_view>

#include "sdk/field_row.h"

namespace vmoe::sdk {

using Json = nlohmann::json;

// Parses the JSON of a manifest. Throws VMOE_BUNDLE_ERROR, and no other error, for invalid JSON and for:
// - encodings other than UTF-8, and a byte order mark;
// - duplicate keys in an object;
// - NaN, Infinity and numbers beyond the range of a double;
// - escapes of half a surrogate pair;
// - more than kMaxJsonDepth nested lists and objects.
Json parse_json(std::string_view text);

// Checks an object's fields against a table. `kind` is the kOf* bit of the model's kind. If a field is invalid, throws
// VMOE_BUNDLE_ERROR with a message that includes the field's key.
void check_fields(const Json& content, const Field* fields, size_t count, unsigned kind);

template <size_t kCount>
void check_fields(const Json& content, const Field (&fields)[kCount], unsigned kind) {
  check_fields(content, fields, kCount, kind);
}

// Returns the field `key` of an object, or null if the field is missing or has the value null.
const Json* optional_field(const Json& object, const char* key);

}  // namespace vmoe::sdk
