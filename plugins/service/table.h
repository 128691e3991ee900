// The rows of what both HTTP services share, which generated/endpoints.h has.
#pragma once

#include <cstdint>
#include <vmoe/batcher.hpp>

struct Exchange;
struct Response;
class Service;

// A status and its reason, with {} for each fact that is known only then.
struct Refusal {
  int status;
  const char* message;
};

enum class FieldType { kText, kWhole, kFlag, kPicture, kAny, kObject };

// A field of a JSON object in requests.
struct Field {
  const char* object;  // that has it
  const char* name;
  const char* value_object;   // of a value, or of an item of a list, that is an object
  const char* default_value;  // JSON
  const char* takes;          // for messages
  FieldType type;             // of the value, or of an item of a list
  int64_t minimum;            // of a whole number, or of the characters of a text
  size_t fewest, most;        // items of a list; most is 0 for a single value
  bool is_required, in_query;
  bool is_exact;           // the object has no other fields
  const char* choices[2];  // of a text, or none
};

struct Metric {
  const char* name;
  const char* help;
  bool is_gauge;                              // a state, not a sum
  double (*count)(const vmoe::BatcherLoad&);  // null if it isn't one number
};

// What answers at an address.
struct Route {
  const char* path;   // {model} stands for the model's name
  bool is_post;       // otherwise GET and HEAD
  const char* label;  // of its metrics; empty if it is not counted
  Response (*answer)(Service&, Exchange&);
};
