// Types of the rows in generated/endpoints.h. That file contains the tables that both HTTP services share.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <vmoe/batcher.hpp>

struct Exchange;
struct Response;
class Service;

// The status and message of the reply that refuses a request. The message contains {} wherever a value is filled in at
// run time.
struct Refusal {
  int status;
  const char* message;
};

enum class FieldType { kText, kWhole, kFlag, kPicture, kAny, kObject };

// A field of a JSON object in a request.
struct Field {
  const char* object;  // the kind of object that has the field
  const char* name;
  const char* value_object;   // kind of the objects if the value is an object or a list of objects; otherwise null
  const char* default_value;  // JSON
  const char* takes;          // description of the accepted values, for error messages
  FieldType type;             // type of the value, or of each item of the list
  int64_t minimum;            // smallest allowed whole number, or minimum length of a string in characters
  size_t fewest, most;        // minimum and maximum number of items in the list; 0 in `most` means a single value
  bool is_required, in_query;
  bool is_exact;           // whether the object may have only the fields in the table
  const char* choices[2];  // the allowed strings; null if any string is allowed
};

struct Metric {
  const char* name;
  const char* help;
  bool is_gauge;                              // whether the metric is a current value rather than a running total
  double (*count)(const vmoe::BatcherLoad&);  // returns the value; null if the metric has more than one value
};

// The handler of one URL path.
struct Route {
  const char* path;                                                 // contains {model} where a URL has the model's name
  bool is_post;                                                     // otherwise GET and HEAD
  const char* label;                                                // label in the metrics; empty if not counted
  boost::asio::awaitable<Response> (*answer)(Service&, Exchange&);  // throws RequestError
};
