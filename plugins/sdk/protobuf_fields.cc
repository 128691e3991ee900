#include "sdk/protobuf_fields.h"

#include "sdk/error.h"

namespace vmoe::sdk {

namespace {

constexpr int kVarintBits = 70;
constexpr int kLastShift = 63;  // of which one bit is left

}  // namespace

void unreadable_model(const std::string& why) { fail(VMOE_BUNDLE_ERROR, "not a readable ONNX model (", why, ")"); }

bool FieldReader::next() {
  if (position_ == bytes_.size()) return false;
  const uint64_t key = varint();
  // Runtimes drop the bits above, and would see another field than the one checked here.
  if (key >> 32 != 0) unreadable_model("a field number of more than 29 bits");
  number_ = static_cast<uint32_t>(key) >> 3;
  payload_ = std::nullopt;
  value_ = std::nullopt;
  switch (key & 7) {
    case 0: value_ = varint(); break;
    case 1: take(8); break;
    case 2: payload_ = take(varint()); break;
    case 5: take(4); break;
    default: unreadable_model("wire type " + std::to_string(key & 7));
  }
  return true;
}

uint64_t FieldReader::varint() {
  uint64_t value = 0;
  for (int shift = 0; shift < kVarintBits; shift += 7) {
    if (position_ == bytes_.size()) unreadable_model("it is cut short");
    const auto byte = static_cast<unsigned char>(bytes_[position_++]);
    if (shift == kLastShift && byte > 1) break;
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  unreadable_model("a number of more than 64 bits");
}

std::string_view FieldReader::take(uint64_t size) {
  if (size > bytes_.size() - position_) unreadable_model("it is cut short");
  const auto taken = bytes_.substr(position_, static_cast<size_t>(size));
  position_ += taken.size();
  return taken;
}

}  // namespace vmoe::sdk
