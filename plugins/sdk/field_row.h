// A row in the generated field tables (generated/bundle_rules.h). Each row states which values a field of a JSON object
// may have.
#pragma once

#include <cstdint>

namespace vmoe::sdk {

enum class FieldType { kObject, kList, kText, kNumber, kFlag, kWhole, kCount };

// vmoe_runtime/bundle/manifest_fields.py declares the rows.
struct Field {
  const char* parent;  // key of the object that contains the field; empty for a field at the top level
  const char* key;
  FieldType type;
  int64_t most;            // largest allowed whole number; the smallest is 0 for a count, otherwise 1
  bool optional;           // whether the field may be missing or null; a null field counts as missing
  unsigned kinds;          // kOf* bits of the model kinds with this field; in others, it must be missing or null
  const char* choices[8];  // the allowed strings; null if any string is allowed
};

}  // namespace vmoe::sdk
