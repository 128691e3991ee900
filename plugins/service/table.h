// Types of the rows in generated/endpoints.h, which both HTTP services share.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <vmoe/batcher.hpp>

struct Exchange;
struct Response;
class Service;

// A status and a message. The message has {} for each fact that is known only at run time.
struct Refusal {
  int status;
  const char* message;
};

enum class FieldType { kText, kWhole, kFlag, kPicture, kAny, kObject };

// A field of a JSON object in requests.
struct Field {
  const char* object;  // the object that has the field
  const char* name;
  const char* value_object;   // if the value, or an item of the list, is an object: its name
  const char* default_value;  // JSON
  const char* takes;          // the accepted values, for messages
  FieldType type;             // of the value, or of each item of the list
  int64_t minimum;            // of a whole number, or of a text's characters
  size_t fewest, most;        // items of the list; most is 0 if the field is a single value
  bool is_required, in_query;
  bool is_exact;           // the object has no other fields
  const char* choices[2];  // the allowed texts; empty if any text is allowed
};

struct Metric {
  const char* name;
  const char* help;
  bool is_gauge;                              // a state, not a sum
  double (*count)(const vmoe::BatcherLoad&);  // null if the metric is more than one number
};

// The handler of an address.
struct Route {
  const char* path;                                                 // {model} stands for the model's name
  bool is_post;                                                     // otherwise GET and HEAD
  const char* label;                                                // in the metrics; empty if not counted
  boost::asio::awaitable<Response> (*answer)(Service&, Exchange&);  // throws RequestError
};
