// Columns out of lines of bfloat16, 32 columns of a token in 64 bytes, that begin within a line.
#pragma once

#include <cstddef>
#include <cstring>

#include "core/tiles.h"

namespace vmoe {

// `size` columns from `column` on become lines of their own with zeros behind. Lines of so many tokens stand together,
// those of the next 32 columns `stride` bytes further, in both. kBytes, of which all columns are multiples, are copied
// at once.
template <size_t kBytes>
void cut_columns(const char* from, size_t stride, size_t column, size_t size, size_t tokens, char* to) {
  for (size_t byte = 0; byte < round_up(2 * size, kLineBytes); byte += kBytes) {
    const size_t place = 2 * column + byte;
    const char* in = from + place / kLineBytes * stride + place % kLineBytes;
    char* out = to + byte / kLineBytes * stride + byte % kLineBytes;
    for (size_t line = 0; line < tokens * kLineBytes; line += kLineBytes) {
      if (byte < 2 * size) {
        std::memcpy(out + line, in + line, kBytes);
      } else {
        std::memset(out + line, 0, kBytes);
      }
    }
  }
}

}  // namespace vmoe
