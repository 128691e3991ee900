// Functions that read JSON requests and check them against the table of fields, and the error that refuses a request.
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
using Input = nlohmann::json;         // JSON of a request; finding a field is fast even among many fields

// An error that refuses a request, with the status and the message of the reply.
class RequestError : public std::runtime_error {
 public:
  explicit RequestError(const std::string& message, int status = 400) : std::runtime_error(message), status_(status) {}
  // Converts an error of the engine.
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

// Parses a JSON object. Stops at the first number or other value beyond the limits `most_numbers` and `most_others`,
// because even a short text may need much memory: 16 bytes for a number, and up to 100 for any other value. Throws
// RequestError.
Input read_json(std::string_view text, size_t most_numbers, size_t most_others);

// Reads the fields of the object named `object` in kFields from a URL's query. Throws RequestError.
Input read_query(std::string_view object, std::string_view query);

// Checks an object against its rows of kFields, adds missing fields with their defaults, and decodes base64. Throws
// RequestError.
//
// where: the path of the object in the request.
// most_items: maximum number of items of its lists, in addition to the limits in the table.
void read_object(std::string_view name, Input& object, const std::string& where = "", size_t most_items = SIZE_MAX);

// Reads a whole number; returns none if the text is anything else.
std::optional<int64_t> whole_number(std::string_view text);

// Formats a client's value for a message, and shortens it.
std::string shown(const Input& value);

// Converts JSON to text. Replaces bytes that are not UTF-8.
std::string to_text(const Json& json);
