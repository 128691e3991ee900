// Requests in JSON, checked against the table of fields, and the error that refuses one.
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
using Input = nlohmann::json;         // of requests: finds a field fast, however many there are

// A request that is refused: the status and the message of the reply.
class RequestError : public std::runtime_error {
 public:
  explicit RequestError(const std::string& message, int status = 400) : std::runtime_error(message), status_(status) {}
  // The engine's refusal, with the status that its code stands for.
  explicit RequestError(const vmoe::Error& error);
  // facts: for each {} of the message.
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

// Parses a JSON object. A number takes 16 bytes of memory and another value up to 100, however short its text, so more
// than any request needs are refused while they are read. Throws RequestError.
Input read_json(std::string_view text, size_t most_numbers, size_t most_others);

// The fields of an object of kFields that the query of an address has. Throws RequestError.
Input read_query(std::string_view object, std::string_view query);

// Checks the fields of an object of kFields, gives it those that it lacks, and decodes pictures. where: its path in the
// request. most_items: of its lists, if the table allows more. Throws RequestError.
void read_object(std::string_view name, Input& object, const std::string& where = "", size_t most_items = SIZE_MAX);

// The whole number of a text; nothing if it is none.
std::optional<int64_t> whole_number(std::string_view text);

// A client's value as messages repeat it.
std::string shown(const Input& value);

// JSON; bytes that are no UTF-8 are replaced.
std::string to_text(const Json& json);
