// The fields of a protobuf message, read from its bytes: as much of the wire format as ONNX graphs need.
#ifndef VMOE_SDK_PROTOBUF_FIELDS_H_
#define VMOE_SDK_PROTOBUF_FIELDS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace vmoe::sdk {

// Throws VMOE_BUNDLE_ERROR, "not a readable ONNX model (why)".
[[noreturn]] void unreadable_model(const std::string& why);

// Goes through the fields of one message, in order. What is no such message is an unreadable model.
class FieldReader {
 public:
  explicit FieldReader(std::string_view bytes) : bytes_(bytes) {}

  // Goes to the next field; false at the end.
  bool next();

  uint32_t number() const { return number_; }
  // Nothing unless the field is length-delimited.
  const std::optional<std::string_view>& payload() const { return payload_; }
  // Nothing unless the field is a varint.
  const std::optional<uint64_t>& value() const { return value_; }

 private:
  uint64_t varint();
  std::string_view take(uint64_t size);

  std::string_view bytes_;
  size_t position_ = 0;
  uint32_t number_ = 0;
  std::optional<std::string_view> payload_;
  std::optional<uint64_t> value_;
};

}  // namespace vmoe::sdk

#endif  // VMOE_SDK_PROTOBUF_FIELDS_H_
