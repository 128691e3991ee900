// Fields of a JSON object that must be there, and be what they are taken for.
#ifndef VMOE_SDK_JSON_FIELDS_H_
#define VMOE_SDK_JSON_FIELDS_H_

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace vmoe::sdk {

using Json = nlohmann::json;

// Parses text as a manifest may be written. Refused beside what is no JSON: other encodings than UTF-8 and a byte order
// mark; a key that an object has twice; NaN, Infinity and numbers that a double has no room for; escapes that are half
// a character; more than 64 levels of lists and objects. Throws VMOE_BUNDLE_ERROR and nothing else.
Json parse_json(std::string_view text);

// Each throws VMOE_BUNDLE_ERROR, naming the key, where the field is missing or of another type.
const Json& object_field(const Json& object, const char* key);
const Json& array_field(const Json& object, const char* key);
std::string string_field(const Json& object, const char* key);
bool bool_field(const Json& object, const char* key);
double number_field(const Json& object, const char* key);
int64_t integer_field(const Json& object, const char* key);

// The field, or null where it is missing or null.
const Json* optional_field(const Json& object, const char* key);

// A whole number from 1 to `limit`.
int64_t positive_field(const Json& object, const char* key, int64_t limit);

// Refuses another text than `value`; the field may be left out.
void only_field(const Json& object, const char* key, const char* value);

// The index of a text among those it may be.
size_t choice_field(const Json& object, const char* key, std::initializer_list<const char*> choices);

}  // namespace vmoe::sdk

#endif  // VMOE_SDK_JSON_FIELDS_H_
