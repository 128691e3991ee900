// The types of the rows in generated/endpoints.h, which contains the tables that both HTTP services share.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <vmoe/batcher.hpp>

struct Exchange;
struct Response;
class Service;

// The status and the message with which a request is refused. The message contains {} for each value that is known only
// at run time.
struct Refusal {
  int status;
  const char* message;
};

enum class FieldType { kText, kWhole, kFlag, kPicture, kAny, kObject };

// A field of a JSON object in a request.
struct Field {
  const char* object;  // the kind of object that has the field
  const char* name;
  const char* value_object;   // if the value is an object or a list of objects, their kind; else null
  const char* default_value;  // JSON
  const char* takes;          // description of the accepted values, for error messages
  FieldType type;             // type of the value, or of each item of the list
  int64_t minimum;            // smallest allowed whole number, or fewest characters of a string
  size_t fewest, most;        // allowed numbers of items of the list; `most` is 0 if the field is a single value
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
  const char* path;                                                 // with {model} in place of the model's name
  bool is_post;                                                     // otherwise GET and HEAD
  const char* label;                                                // label in the metrics; empty if not counted
  boost::asio::awaitable<Response> (*answer)(Service&, Exchange&);  // throws RequestError
};
