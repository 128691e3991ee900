// The words of memory as which kernels read and write the rows of tensors.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vmoe::cuda {

// The largest unit of one memory access: 16 bytes. It is used if rows and pointers are aligned to 16 bytes. Otherwise,
// each access reads or writes one element.
struct alignas(16) Word16 {
  uint32_t part[4];
};

// Returns whether all rows of a tensor consist of whole, aligned 16-byte words. The rows have `row_bytes` bytes each
// and are contiguous, and `rows` points to the first row.
inline bool are_words(const void* rows, size_t row_bytes) {
  return row_bytes % sizeof(Word16) == 0 && reinterpret_cast<uintptr_t>(rows) % sizeof(Word16) == 0;
}

// The elements of type T in a Word; a single element if Word and T have the same size.
template <class T, class Word>
struct Elements {
  static constexpr uint32_t kCount = sizeof(Word) / sizeof(T);  // NOLINT(bugprone-sizeof-expression)
  T at[kCount];
};

}  // namespace vmoe::cuda
