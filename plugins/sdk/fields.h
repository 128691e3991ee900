// Fields of a JSON object: what they may hold, and the check of a whole object against a table of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

namespace vmoe::sdk {

using Json = nlohmann::json;

enum class FieldType { kObject, kList, kText, kNumber, kFlag, kWhole, kCount };

// As vmoe_runtime/bundle/manifest_fields.py declares it.
struct Field {
  const char* parent;  // key of the object that it is in; empty for the whole object
  const char* key;
  FieldType type;
  int64_t most;            // the largest whole number; the smallest is 1, and of a count 0
  bool optional;           // it may be missing or null, which is the same
  unsigned kinds;          // kOf* of those that have it; in others it must be missing or null
  const char* choices[8];  // the texts that it may be; null for any
};

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
