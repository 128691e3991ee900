// A row of the generated tables of fields (generated/bundle_rules.h): what a field of a JSON object may hold.
#pragma once

#include <cstdint>

namespace vmoe::sdk {

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

}  // namespace vmoe::sdk
