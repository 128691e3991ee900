// What rows of tensors are read and written as.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vmoe::cuda {

// What one access to memory moves where rows and pointers allow; elsewhere it is one element.
struct alignas(16) Word16 {
  uint32_t part[4];
};

// Whether rows of so many bytes, one after the other, are whole words.
inline bool are_words(const void* rows, size_t row_bytes) {
  return row_bytes % sizeof(Word16) == 0 && reinterpret_cast<uintptr_t>(rows) % sizeof(Word16) == 0;
}

// A word as elements: one, where it is of their type.
template <class T, class Word>
struct Elements {
  static constexpr uint32_t kCount = sizeof(Word) / sizeof(T);  // NOLINT(bugprone-sizeof-expression)
  T at[kCount];
};

}  // namespace vmoe::cuda
