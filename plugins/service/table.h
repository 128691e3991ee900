// Types of the rows in generated/endpoints.h, which both HTTP services share.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <vmoe/batcher.hpp>

struct Exchange;
struct Response;
class Service;

// A status and a message, with {} for each fact that is known only at run time.
struct Refusal {
  int status;
  const char* message;
};

enum class FieldType { kText, kWhole, kFlag, kPicture, kAny, kObject };

// A field of a JSON object in requests.
struct Field {
  const char* object;  // that has it
  const char* name;
  const char* value_object;   // if a value, or an item of the list, is an object: which one
  const char* default_value;  // JSON
  const char* takes;          // for messages
  FieldType type;             // of the value, or of each item of the list
  int64_t minimum;            // of a whole number, or of a text's characters
  size_t fewest, most;        // items of the list; most is 0 if it is a single value
  bool is_required, in_query;
  bool is_exact;           // the object has no other fields
  const char* choices[2];  // of a text; empty if it is free
};

struct Metric {
  const char* name;
  const char* help;
  bool is_gauge;                              // a state, not a sum
  double (*count)(const vmoe::BatcherLoad&);  // null if it is more than one number
};

// What answers at an address.
struct Route {
  const char* path;                                                 // {model} stands for the model's name
  bool is_post;                                                     // otherwise GET and HEAD
  const char* label;                                                // of its metrics; empty if it is not counted
  boost::asio::awaitable<Response> (*answer)(Service&, Exchange&);  // throws RequestError
};
