// The fields of a JSON object: their allowed values, and a check of an object against a table of fields.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

namespace vmoe::sdk {

using Json = nlohmann::json;

enum class FieldType { kObject, kList, kText, kNumber, kFlag, kWhole, kCount };

// A row of the tables that vmoe_runtime/bundle/manifest_fields.py declares.
struct Field {
  const char* parent;  // key of the object that holds it; empty for the top level
  const char* key;
  FieldType type;
  int64_t most;            // largest whole number; the smallest is 1, or 0 for a count
  bool optional;           // it may be missing or null, which are equivalent
  unsigned kinds;          // kOf* bits of the kinds that have it; for others it must be missing or null
  const char* choices[8];  // the allowed texts; null if any is allowed
};

// Parses the JSON of a manifest. Besides invalid JSON, it refuses:
// - encodings other than UTF-8, and a byte order mark;
// - duplicate keys in an object;
// - NaN, Infinity and numbers beyond the range of a double;
// - escapes of half a surrogate pair;
// - more than kMaxJsonDepth nested lists and objects.
// Throws only VMOE_BUNDLE_ERROR.
Json parse_json(std::string_view text);

// Checks the fields of an object against a table. `kind` is one kOf* bit. Throws VMOE_BUNDLE_ERROR, naming the key.
void check_fields(const Json& content, const Field* fields, size_t count, unsigned kind);

template <size_t kCount>
void check_fields(const Json& content, const Field (&fields)[kCount], unsigned kind) {
  check_fields(content, fields, kCount, kind);
}

// Returns the field; null if it is missing or null.
const Json* optional_field(const Json& object, const char* key);

}  // namespace vmoe::sdk
