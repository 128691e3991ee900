// Scratch memory that calls reuse. After its first calls, a process therefore allocates no memory for calls that are no
// larger.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "core/sanitizers.h"

namespace vmoe {

// Zeroed memory from the operating system, in large pages if the system supports them.
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

// The scratch memory of one call: a bump allocator over a buffer that later calls reuse. If an array does not fit
// into this buffer, the array gets a separate buffer. A later call then gets one buffer that is large enough for all
// arrays.
class Workspace {
 public:
  // Takes one of the process's idle buffers, if there is one.
  Workspace();
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // Returns memory for `count` values, which begins at a 64-byte boundary and is not initialised. It can be used as
  // long as the workspace exists. Throws std::bad_alloc.
  template <class T>
  T* take(size_t count) {
    return static_cast<T*>(take_bytes(count * sizeof(T)));
  }

 private:
  PageBuffer buffer_;
  std::vector<PageBuffer> more_;  // one buffer for each array that did not fit into `buffer_`
  size_t taken_ = 0;              // bytes, in all buffers

  void* take_bytes(size_t bytes);
};

}  // namespace vmoe
