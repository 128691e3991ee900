#include "sdk/external_data.h"

#include <algorithm>
#include <charconv>
#include <map>

#include "sdk/error.h"
#include "sdk/protobuf_fields.h"
#include "sdk/utf8.h"

namespace vmoe::sdk {

namespace {

constexpr int kMaxDepth = 64;
constexpr uint32_t kTensorName = 8;
constexpr size_t kMaxByteDigits = 18;  // what fits 64 bits whatever the digits are

enum class Message { kModel, kTraining, kGraph, kFunction, kNode, kAttribute, kSparseTensor, kTensor, kEntry };

struct Child {
  Message parent;
  uint32_t field;  // number in onnx.proto3
  Message message;
};

// Every path from ModelProto to a TensorProto.
constexpr Child kChildren[] = {
    {Message::kModel, 7, Message::kGraph},
    {Message::kModel, 20, Message::kTraining},
    {Message::kModel, 25, Message::kFunction},
    {Message::kTraining, 1, Message::kGraph},
    {Message::kTraining, 2, Message::kGraph},
    {Message::kGraph, 1, Message::kNode},
    {Message::kGraph, 5, Message::kTensor},
    {Message::kGraph, 15, Message::kSparseTensor},
    {Message::kFunction, 7, Message::kNode},
    {Message::kFunction, 11, Message::kAttribute},
    {Message::kNode, 5, Message::kAttribute},
    {Message::kAttribute, 5, Message::kTensor},
    {Message::kAttribute, 6, Message::kGraph},
    {Message::kAttribute, 10, Message::kTensor},
    {Message::kAttribute, 11, Message::kGraph},
    {Message::kAttribute, 22, Message::kSparseTensor},
    {Message::kAttribute, 23, Message::kSparseTensor},
    {Message::kSparseTensor, 1, Message::kTensor},
    {Message::kSparseTensor, 2, Message::kTensor},
    {Message::kTensor, 13, Message::kEntry},
};

using Entries = std::map<std::string, std::string>;

int64_t bytes_of(const std::string& text) {
  // A sign or a space would be read otherwise by a runtime.
  const bool digits = std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (text.empty() || text.size() > kMaxByteDigits || !digits)
    unreadable_model(in_quotes(text) + " is not a number of bytes");
  int64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

void read_entry(std::string_view bytes, Entries& entries) {
  std::string key, value;
  for (FieldReader fields(bytes); fields.next();) {
    if (!fields.payload()) continue;
    if (!is_utf8(*fields.payload())) unreadable_model("external data that is no text");
    if (fields.number() == 1) key = *fields.payload();
    if (fields.number() == 2) value = *fields.payload();
  }
  if (entries.emplace(key, value).first->second != value) unreadable_model("external data that contradicts itself");
}

std::string value_of(const Entries& entries, const char* key, const char* missing) {
  const auto entry = entries.find(key);
  return entry == entries.end() ? missing : entry->second;
}

void collect(std::string_view bytes, Message message, int depth, std::vector<ExternalData>& found) {
  if (depth > kMaxDepth) unreadable_model("nested too deeply");
  Entries entries;
  std::string name;
  for (FieldReader fields(bytes); fields.next();) {
    const auto is_child = [&](const Child& c) { return c.parent == message && c.field == fields.number(); };
    const auto child = std::find_if(std::begin(kChildren), std::end(kChildren), is_child);
    if (message == Message::kTensor && fields.number() == kTensorName && fields.payload()) name = *fields.payload();
    if (child == std::end(kChildren) || !fields.payload()) continue;
    if (child->message == Message::kEntry) {
      read_entry(*fields.payload(), entries);
    } else {
      collect(*fields.payload(), child->message, depth + 1, found);
    }
  }
  if (entries.empty()) return;
  found.push_back({name, value_of(entries, "location", ""), bytes_of(value_of(entries, "offset", "0")),
                   bytes_of(value_of(entries, "length", "0"))});
}

}  // namespace

std::vector<ExternalData> external_data(std::string_view graph) {
  std::vector<ExternalData> found;
  collect(graph, Message::kModel, 0, found);
  return found;
}

}  // namespace vmoe::sdk
