// Types of the rows in generated/endpoints.h, a table that both HTTP services share.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <vmoe/batcher.hpp>

struct Exchange;
struct Response;
class Service;

// The status and the message of a refusal. The message contains {} for each fact that is known only at run time.
struct Refusal {
  int status;
  const char* message;
};

enum class FieldType { kText, kWhole, kFlag, kPicture, kAny, kObject };

// A field of a JSON object in a request.
struct Field {
  const char* object;  // the kind of object that has the field
  const char* name;
  const char* value_object;   // if the value, or each item of the list, is an object: the kind of that object
  const char* default_value;  // JSON
  const char* takes;          // description of the accepted values, for messages
  FieldType type;             // type of the value, or of each item of the list
  int64_t minimum;            // smallest whole number, or smallest number of characters of a string
  size_t fewest, most;        // number of items of the list; `most` is 0 if the field is a single value
  bool is_required, in_query;
  bool is_exact;           // the object may have no fields except those in the table
  const char* choices[2];  // the allowed strings; null if any string is allowed
};

struct Metric {
  const char* name;
  const char* help;
  bool is_gauge;                              // the metric is a current state rather than a sum
  double (*count)(const vmoe::BatcherLoad&);  // null if the metric has more than one value
};

// The handler of a URL path.
struct Route {
  const char* path;                                                 // {model} is replaced by the model's name
  bool is_post;                                                     // otherwise GET and HEAD
  const char* label;                                                // label in the metrics; empty if not counted
  boost::asio::awaitable<Response> (*answer)(Service&, Exchange&);  // throws RequestError
};
