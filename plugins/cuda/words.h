// Words of memory. A word is the unit in which kernels read and write the rows of tensors.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vmoe::cuda {

// A word of 16 bytes, the most that one memory access can transfer. It is used if rows and pointers are aligned to 16
// bytes. Otherwise, each access reads or writes one element.
struct alignas(16) Word16 {
  uint32_t part[4];
};

// Returns whether all rows of a tensor consist of whole, aligned 16-byte words. The rows have `row_bytes` bytes each
// and are contiguous, and `rows` points to the first row.
inline bool are_words(const void* rows, size_t row_bytes) {
  return row_bytes % sizeof(Word16) == 0 && reinterpret_cast<uintptr_t>(rows) % sizeof(Word16) == 0;
}

// The elements of type T in a Word. If Word and T have the same size, there is only one element.
template <class T, class Word>
struct Elements {
  static constexpr uint32_t kCount = sizeof(Word) / sizeof(T);  // NOLINT(bugprone-sizeof-expression)
  T at[kCount];
};

}  // namespace vmoe::cuda
