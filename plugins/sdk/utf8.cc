#include "sdk/utf8.h"

#include <cstddef>
#include <cstdint>

namespace vmoe::sdk {

namespace {

// Length of the character at the start and its smallest code point; 0 for a byte that starts none.
struct Lead {
  size_t length;
  uint32_t bits;
  uint32_t smallest;
};

Lead lead_of(unsigned char byte) {
  if (byte < 0x80) return {1, byte, 0};
  if ((byte & 0xE0) == 0xC0) return {2, byte & 0x1Fu, 0x80};
  if ((byte & 0xF0) == 0xE0) return {3, byte & 0x0Fu, 0x800};
  if ((byte & 0xF8) == 0xF0) return {4, byte & 0x07u, 0x10000};
  return {0, 0, 0};
}

}  // namespace

size_t utf8_length(std::string_view bytes) {
  if (bytes.empty()) return 0;
  const Lead lead = lead_of(static_cast<unsigned char>(bytes[0]));
  if (lead.length > bytes.size()) return 0;
  uint32_t code = lead.bits;
  for (size_t i = 1; i < lead.length; ++i) {
    const auto byte = static_cast<unsigned char>(bytes[i]);
    if ((byte & 0xC0) != 0x80) return 0;
    code = code << 6 | (byte & 0x3F);
  }
  const bool is_surrogate = code >= 0xD800 && code < 0xE000;
  return code < lead.smallest || code > 0x10FFFF || is_surrogate ? 0 : lead.length;
}

bool is_utf8(std::string_view bytes) {
  while (!bytes.empty()) {
    const size_t length = utf8_length(bytes);
    if (length == 0) return false;
    bytes.remove_prefix(length);
  }
  return true;
}

}  // namespace vmoe::sdk
