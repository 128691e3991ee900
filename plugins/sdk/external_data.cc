#include "sdk/external_data.h"

#include <algorithm>
#include <charconv>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "sdk/error.h"
#include "sdk/generated/bundle_rules.h"

namespace vmoe::sdk {

namespace {

constexpr int kVarintBits = 70;
constexpr int kLastShift = 63;  // at this shift, only one of the 64 bits is left

using Entries = std::map<std::string_view, std::string_view>;

[[noreturn]] void unreadable(const std::string& why) {
  fail(VMOE_BUNDLE_ERROR, "not a readable ONNX model (", why, ")");
}

// Reads the fields of one protobuf message in order. Supports only the part of the wire format that ONNX graphs use.
class FieldReader {
 public:
  explicit FieldReader(std::string_view bytes) : bytes_(bytes) {}

  // Moves to the next field. Returns false if there is no next field.
  bool next() {
    if (position_ == bytes_.size()) return false;
    const uint64_t key = varint();
    // Refuses field numbers that need more than 29 bits. Runtimes drop the higher bits, and would then read a different
    // field from the one that is checked here.
    if (key >> 32 != 0) unreadable("a field number of more than 29 bits");
    number = static_cast<uint32_t>(key) >> 3;
    payload.reset();
    value.reset();
    switch (key & 7) {
      case 0: value = varint(); break;
      case 1: take(8); break;
      case 2: payload = take(varint()); break;
      case 5: take(4); break;
      default: unreadable("wire type " + std::to_string(key & 7));
    }
    return true;
  }

  uint32_t number = 0;
  std::optional<std::string_view> payload;  // the bytes of a length-delimited field; not set for other fields
  std::optional<uint64_t> value;            // set for a varint

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < kVarintBits; shift += 7) {
      if (position_ == bytes_.size()) unreadable("it is cut short");
      const auto byte = static_cast<unsigned char>(bytes_[position_++]);
      if (shift == kLastShift && byte > 1) break;
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    unreadable("a number of more than 64 bits");
  }

  std::string_view take(uint64_t size) {
    if (size > bytes_.size() - position_) unreadable("it is cut short");
    const auto taken = bytes_.substr(position_, static_cast<size_t>(size));
    position_ += taken.size();
    return taken;
  }

  std::string_view bytes_;
  size_t position_ = 0;
};

int64_t bytes_of(std::string_view text) {
  // Only digits are allowed, because a runtime may parse signs and spaces differently.
  const bool digits = std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (text.empty() || text.size() > kMaxByteDigits || !digits)
    unreadable(in_quotes(text) + " is not a number of bytes");
  int64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

void read_entry(std::string_view bytes, Entries& entries) {
  std::string_view key, value;
  for (FieldReader field(bytes); field.next();) {
    if (field.number == 1) key = field.payload.value_or(key);
    if (field.number == 2) value = field.payload.value_or(value);
  }
  if (entries.emplace(key, value).first->second != value) unreadable("external data that contradicts itself");
}

std::string_view value_of(const Entries& entries, std::string_view key, std::string_view missing) {
  const auto entry = entries.find(key);
  return entry == entries.end() ? missing : entry->second;
}

// A function that the model defines, and the types of the ops that it calls.
struct Function {
  std::string_view name;
  std::set<std::string_view> called;

  bool calls_one_of(const std::set<std::string_view>& names) const {
    return std::any_of(called.begin(), called.end(), [&](std::string_view type) { return names.count(type) != 0; });
  }
};

// Refuses functions whose calls to other functions are more than one level deep. A function may call another function,
// but a function that another function calls must not call any function. Without this limit, deep calls could exhaust a
// runtime's stack.
void check_calls(const std::vector<Function>& functions) {
  std::set<std::string_view> names, callers;
  for (const Function& function : functions) names.insert(function.name);
  for (const Function& function : functions) {
    if (function.calls_one_of(names)) callers.insert(function.name);
  }
  for (const Function& function : functions) {
    if (function.calls_one_of(callers)) unreadable("functions that call one another too deeply");
  }
}

struct Found {
  std::vector<ExternalData> references;
  std::vector<Function> functions;
};

// Searches a message and all messages inside it. Collects their external-data references and functions. `function` is
// the function that the message belongs to.
void collect(std::string_view bytes, Message message, int depth, Found& found, Function& function) {
  if (depth > kMaxGraphDepth) unreadable("nested too deeply");
  Entries entries;
  for (FieldReader field(bytes); field.next();) {
    if (message == Message::kOpset && field.number == 2 && field.value.value_or(0) > kMaxOpset) {
      unreadable("an operator set of a version above " + std::to_string(kMaxOpset));
    }
    if (!field.payload) continue;
    if (message == Message::kNode && field.number == 4) function.called.insert(*field.payload);
    if (message == Message::kFunction && field.number == 1) function.name = *field.payload;
    const auto is_child = [&](const ChildMessage& c) { return c.parent == message && c.field == field.number; };
    const auto child = std::find_if(std::begin(kChildMessages), std::end(kChildMessages), is_child);
    if (child == std::end(kChildMessages)) continue;
    if (child->message == Message::kEntry) {
      read_entry(*field.payload, entries);
    } else if (child->message == Message::kFunction) {
      Function inner;
      collect(*field.payload, child->message, depth + 1, found, inner);
      found.functions.push_back(std::move(inner));
    } else {
      collect(*field.payload, child->message, depth + 1, found, function);
    }
  }
  if (entries.empty()) return;
  for (const auto& entry : entries) {
    // Refuses all other keys. For some of them, such as prepacked_0, ONNX Runtime reads further parts of the file.
    const bool is_known = entry.first == "location" || entry.first == "offset" || entry.first == "length";
    if (!is_known) unreadable("external data with " + in_quotes(entry.first));
  }
  found.references.push_back({std::string(value_of(entries, "location", "")),
                              bytes_of(value_of(entries, "offset", "0")), bytes_of(value_of(entries, "length", "0"))});
}

}  // namespace

std::vector<ExternalData> external_data(std::string_view graph) {
  Found found;
  Function none;
  collect(graph, Message::kModel, 0, found, none);
  check_calls(found.functions);
  return found.references;
}

}  // namespace vmoe::sdk
