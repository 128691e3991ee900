#include "sdk/sha256.h"

#include <algorithm>
#include <cstring>

namespace vmoe::sdk {

Sha256::Sha256() {
  static const Sha256Way fastest = sha256_ways().front();
  way_ = fastest;
}

void Sha256::update(const void* data, size_t size) {
  if (size == 0) return;
  const auto* bytes = static_cast<const unsigned char*>(data);
  const size_t held = bytes_ % kSha256BlockBytes;
  bytes_ += size;
  if (held > 0) {
    const size_t taken = std::min(size, kSha256BlockBytes - held);
    std::memcpy(rest_ + held, bytes, taken);
    if (held + taken < kSha256BlockBytes) return;
    way_.add_blocks(state_, rest_, 1);
    bytes += taken;
    size -= taken;
  }
  const size_t blocks = size / kSha256BlockBytes;
  way_.add_blocks(state_, bytes, blocks);
  std::memcpy(rest_, bytes + blocks * kSha256BlockBytes, size % kSha256BlockBytes);
}

std::string Sha256::hex() {
  // A one bit, zeros up to the last 8 bytes of a block, and the length in bits there.
  const uint64_t bits = bytes_ * 8;
  unsigned char padding[kSha256BlockBytes + 8] = {0x80};
  const size_t held = bytes_ % kSha256BlockBytes;
  const size_t zeros_end = (held < 56 ? 56 : 120) - held;
  for (size_t i = 0; i < 8; ++i) padding[zeros_end + i] = static_cast<unsigned char>(bits >> (56 - 8 * i));
  update(padding, zeros_end + 8);
  std::string text;
  for (const uint32_t word : state_) {
    for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
  }
  return text;
}

}  // namespace vmoe::sdk
