// Gives the sanitizers information that they cannot observe. In builds without sanitizers, these functions do nothing.
#pragma once

#include <cstddef>

#if defined(__has_feature)
#define VMOE_HAS_FEATURE(name) __has_feature(name)
#else
#define VMOE_HAS_FEATURE(name) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || VMOE_HAS_FEATURE(address_sanitizer)
#define VMOE_ADDRESS_SANITIZER 1
#include <sanitizer/asan_interface.h>

#include <cstring>
#endif
#if defined(__SANITIZE_THREAD__) || VMOE_HAS_FEATURE(thread_sanitizer)
#define VMOE_THREAD_SANITIZER 1
#include <sanitizer/tsan_interface.h>
#endif

namespace vmoe {

// Number of unused bytes between the parts of a buffer. Because of these bytes, a sanitizer detects an access beyond
// the end of a part.
#ifdef VMOE_ADDRESS_SANITIZER
inline constexpr size_t kGuardBytes = 64;
#else
inline constexpr size_t kGuardBytes = 0;
#endif

// Makes the address sanitizer report every access to the `bytes` bytes at `data`.
inline void forbid_access([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#ifdef VMOE_ADDRESS_SANITIZER
  ASAN_POISON_MEMORY_REGION(data, bytes);
#endif
}

inline void allow_access([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#ifdef VMOE_ADDRESS_SANITIZER
  ASAN_UNPOISON_MEMORY_REGION(data, bytes);
#endif
}

// Allows access to memory whose values must be written before they are read. Fills the memory with NaN, so that an
// earlier read has visible results.
inline void allow_uninitialised([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#ifdef VMOE_ADDRESS_SANITIZER
  allow_access(data, bytes);
  std::memset(data, 0xff, bytes);
#endif
}

// Informs the thread sanitizer that everything before release(object) happens before everything after a later
// acquire(object). Needed if a library without instrumentation synchronizes the threads.
inline void release([[maybe_unused]] void* object) {
#ifdef VMOE_THREAD_SANITIZER
  __tsan_release(object);
#endif
}

inline void acquire([[maybe_unused]] void* object) {
#ifdef VMOE_THREAD_SANITIZER
  __tsan_acquire(object);
#endif
}

}  // namespace vmoe
