// Scratch memory that calls take in turns, so that a warm process allocates nothing per call.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "core/sanitizers.h"

namespace vmoe {

// Memory straight from the operating system, in large pages where it has them; not zeroed by us, but by the system.
class PageBuffer {
 public:
  PageBuffer() = default;
  // Throws std::bad_alloc.
  explicit PageBuffer(size_t bytes);

  void* data() const { return data_.get(); }
  size_t bytes() const { return data_ ? data_.get_deleter().bytes : 0; }

 private:
  struct Unmap {
    size_t bytes;
    void operator()(void* data) const;
  };

  std::unique_ptr<void, Unmap> data_;
};

// One call's scratch: a bump allocator over a buffer that the next call uses again. What doesn't fit has a buffer of
// its own, and the next call finds one that is large enough for all.
class Workspace {
 public:
  // Takes an idle buffer of the process.
  Workspace();
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // `count` uninitialised values at a 64-byte boundary, which live as long as the workspace. Throws std::bad_alloc.
  template <class T>
  T* take(size_t count) {
    return static_cast<T*>(take_bytes(count * sizeof(T)));
  }

 private:
  PageBuffer buffer_;
  std::vector<PageBuffer> more_;  // of what didn't fit
  size_t taken_ = 0;              // bytes, of all buffers

  void* take_bytes(size_t bytes);
};

}  // namespace vmoe
