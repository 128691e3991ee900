// Functions that read JSON requests and check them against the table of fields. Also defines the error that is thrown
// to refuse a request.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vmoe/engine.hpp>

#include "generated/endpoints.h"

using Json = nlohmann::ordered_json;  // of replies
using Input = nlohmann::json;         // a JSON request; looking up a field is fast even in a large object

// The error that is thrown to refuse a request. It contains the status and the message of the reply.
class RequestError : public std::runtime_error {
 public:
  explicit RequestError(const std::string& message, int status = 400) : std::runtime_error(message), status_(status) {}
  // Takes the message and the status from an error that the engine returned.
  explicit RequestError(const vmoe::Error& error);
  // facts: one value for each {} in the message.
  template <typename... Facts>
  explicit RequestError(const Refusal& refusal, const Facts&... facts)
      : RequestError(filled(refusal.message, facts...), refusal.status) {}
  int status() const { return status_; }

 private:
  template <typename... Facts>
  static std::string filled(std::string_view message, const Facts&... facts) {
    std::ostringstream text;
    [[maybe_unused]] const auto add = [&](const auto& fact) {
      const size_t position = message.find("{}");
      text << message.substr(0, position) << fact;
      message.remove_prefix(position + 2);
    };
    (add(facts), ...);
    text << message;
    return text.str();
  }

  int status_;
};

// Parses a JSON object. Throws RequestError if `text` is not a JSON object or exceeds a limit.
//
// Parsing stops at the first value that exceeds one of the limits: `most_numbers` limits the numbers, and `most_others`
// all other values. The limits are needed because even a short text may need much memory: 16 bytes for a number, and up
// to 100 bytes for any other value.
Input read_json(std::string_view text, size_t most_numbers, size_t most_others);

// Reads the query of a URL. Each field of the query must be a row of kFields that belongs to `object` and is allowed in
// a query. Throws RequestError if the query has any other field, or if a value is invalid.
Input read_query(std::string_view object, std::string_view query);

// Checks an object against the rows of kFields that belong to `name`. Adds missing fields with their defaults, and
// decodes base64. Throws RequestError if a field is invalid.
//
// where: the object's path in the request.
// most_items: maximum number of items in each list of the object, in addition to the limits in the table.
void read_object(std::string_view name, Input& object, const std::string& where = "", size_t most_items = SIZE_MAX);

// Reads a whole number. Returns nullopt if the text is not a whole number.
std::optional<int64_t> whole_number(std::string_view text);

// Returns a client's value as a short text for a message.
std::string shown(const Input& value);

// Converts JSON to text. Bytes that are not UTF-8 are replaced.
std::string to_text(const Json& json);
