// A row of the generated tables of fields (generated/bundle_rules.h): the allowed values of a field of a JSON object.
#pragma once

#include <cstdint>

namespace vmoe::sdk {

enum class FieldType { kObject, kList, kText, kNumber, kFlag, kWhole, kCount };

// vmoe_runtime/bundle/manifest_fields.py declares the rows.
struct Field {
  const char* parent;  // key of the object that contains the field; empty for a field at the top level
  const char* key;
  FieldType type;
  int64_t most;            // largest allowed whole number; the smallest is 1, or 0 for a count
  bool optional;           // whether the field may be missing or null, which both mean the same
  unsigned kinds;          // kOf* bits of the kinds that have this field; for other kinds, it must be missing or null
  const char* choices[8];  // the allowed strings; null if any string is allowed
};

}  // namespace vmoe::sdk
