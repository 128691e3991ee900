// The check of a JSON object against a table of its fields.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string_view>

#include "sdk/field_row.h"

namespace vmoe::sdk {

using Json = nlohmann::json;

// Parses text as a manifest may be written. Refused beside what is no JSON: other encodings than UTF-8 and a byte order
// mark; a key that an object has twice; NaN, Infinity and numbers that a double has no room for; escapes that are half
// a character; more than kMaxJsonDepth lists and objects inside each other. Throws VMOE_BUNDLE_ERROR and nothing else.
Json parse_json(std::string_view text);

// Refuses an object whose fields are not what a table says; `kind` is one of kOf*. Throws VMOE_BUNDLE_ERROR with the
// key.
void check_fields(const Json& content, const Field* fields, size_t count, unsigned kind);

template <size_t kCount>
void check_fields(const Json& content, const Field (&fields)[kCount], unsigned kind) {
  check_fields(content, fields, kCount, kind);
}

// The field, or null where it is missing or null.
const Json* optional_field(const Json& object, const char* key);

}  // namespace vmoe::sdk
