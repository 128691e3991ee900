#include "sdk/external_data.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>

#include "sdk/error.h"
#include "sdk/utf8.h"

namespace vmoe::sdk {

namespace {

constexpr int kMaxDepth = 64;
constexpr int kVarintBits = 70;
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

[[noreturn]] void unreadable(const std::string& why) {
  fail(VMOE_BUNDLE_ERROR, "not a readable ONNX model (", why, ")");
}

// The fields of one message, in order.
class FieldReader {
 public:
  explicit FieldReader(std::string_view bytes) : bytes_(bytes) {}

  // Goes to the next field; false at the end.
  bool next() {
    if (position_ == bytes_.size()) return false;
    const auto key = varint();
    // Runtimes drop the bits above, and would see another field than the one checked here.
    if (key >> 32 != 0) unreadable("a field number of more than 29 bits");
    number_ = static_cast<uint32_t>(key) >> 3;
    payload_ = std::nullopt;
    switch (key & 7) {
      case 0: varint(); break;
      case 1: take(8); break;
      case 2: payload_ = take(varint()); break;
      case 5: take(4); break;
      default: unreadable("wire type " + std::to_string(static_cast<int>(key & 7)));
    }
    return true;
  }

  uint32_t number() const { return number_; }
  // Nothing unless the field is length-delimited.
  const std::optional<std::string_view>& payload() const { return payload_; }

 private:
  // Wide enough for every bit that ten bytes can hold, so that none is lost before it was judged.
  using Wide = unsigned __int128;

  Wide varint() {
    Wide value = 0;
    for (int shift = 0; shift < kVarintBits; shift += 7) {
      if (position_ == bytes_.size()) unreadable("it is cut short");
      const auto byte = static_cast<unsigned char>(bytes_[position_++]);
      value |= static_cast<Wide>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    unreadable("a number of more than 64 bits");
  }

  std::string_view take(Wide size) {
    if (size > bytes_.size() - position_) unreadable("it is cut short");
    const auto taken = bytes_.substr(position_, static_cast<size_t>(size));
    position_ += taken.size();
    return taken;
  }

  std::string_view bytes_;
  size_t position_ = 0;
  uint32_t number_ = 0;
  std::optional<std::string_view> payload_;
};

using Entries = std::map<std::string, std::string>;

int64_t bytes_of(const std::string& text) {
  // A sign or a space would be read otherwise by a runtime.
  const bool digits = std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (text.empty() || text.size() > kMaxByteDigits || !digits)
    unreadable(in_quotes(text) + " is not a number of bytes");
  int64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

void read_entry(std::string_view bytes, Entries& entries) {
  std::string key, value;
  for (FieldReader fields(bytes); fields.next();) {
    if (!fields.payload()) continue;
    if (!is_utf8(*fields.payload())) unreadable("external data that is no text");
    if (fields.number() == 1) key = *fields.payload();
    if (fields.number() == 2) value = *fields.payload();
  }
  if (entries.emplace(key, value).first->second != value) unreadable("external data that contradicts itself");
}

std::string value_of(const Entries& entries, const char* key, const char* missing) {
  const auto entry = entries.find(key);
  return entry == entries.end() ? missing : entry->second;
}

void collect(std::string_view bytes, Message message, int depth, std::vector<ExternalData>& found) {
  if (depth > kMaxDepth) unreadable("nested too deeply");
  Entries entries;
  for (FieldReader fields(bytes); fields.next();) {
    const auto is_child = [&](const Child& c) { return c.parent == message && c.field == fields.number(); };
    const auto child = std::find_if(std::begin(kChildren), std::end(kChildren), is_child);
    if (child == std::end(kChildren) || !fields.payload()) continue;
    if (child->message == Message::kEntry) {
      read_entry(*fields.payload(), entries);
    } else {
      collect(*fields.payload(), child->message, depth + 1, found);
    }
  }
  if (entries.empty()) return;
  found.push_back({value_of(entries, "location", ""), bytes_of(value_of(entries, "offset", "0")),
                   bytes_of(value_of(entries, "length", "0"))});
}

}  // namespace

std::vector<ExternalData> external_data(std::string_view graph) {
  std::vector<ExternalData> found;
  collect(graph, Message::kModel, 0, found);
  return found;
}

}  // namespace vmoe::sdk
