// Scratch memory that calls take in turns, so that a warm process allocates nothing per call.
#pragma once

#include <cstddef>
#include <memory>

#include "core/sanitizers.h"

namespace vmoe {

// Memory straight from the operating system, in large pages where it has them; not zeroed by us, but by the system.
class PageBuffer {
 public:
  PageBuffer() = default;
  // Throws std::bad_alloc.
  explicit PageBuffer(size_t bytes);
  ~PageBuffer();
  PageBuffer(PageBuffer&& other) noexcept;
  PageBuffer& operator=(PageBuffer&& other) noexcept;
  PageBuffer(const PageBuffer&) = delete;
  PageBuffer& operator=(const PageBuffer&) = delete;

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// One call's scratch: a bump allocator over a buffer that the next call uses again.
//
//   float* rows = nullptr;
//   const Workspace workspace([&](auto& memory) { rows = memory.template take<float>(count); });
class Workspace {
 public:
  // Takes an idle buffer of the process; memory comes with take_all.
  Workspace();
  // With what `layout` takes. Throws std::bad_alloc.
  template <class Layout>
  explicit Workspace(const Layout& layout);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // Bytes that take<T>(count) uses, with its alignment.
  template <class T>
  static size_t bytes_to_take(size_t count) {
    return (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment + kGuardBytes;
  }

  // Makes room for `bytes` and forgets what was taken. Throws std::bad_alloc.
  void reserve(size_t bytes);

  // `count` uninitialised values at a 64-byte boundary; the sum of all must fit into what was reserved.
  template <class T>
  T* take(size_t count) {
    T* values = reinterpret_cast<T*>(static_cast<char*>(buffer_.data()) + used_);
    allow_uninitialised(values, count * sizeof(T));
    used_ += bytes_to_take<T>(count);
    return values;
  }

 private:
  static constexpr size_t kAlignment = 64;

  PageBuffer buffer_;
  size_t used_ = 0;
};

// Counts what a layout takes from a workspace: a layout is a function of where it takes its memory from, called once
// with this, then with the workspace.
class WorkspaceBytes {
 public:
  template <class T>
  T* take(size_t count) {
    bytes_ += Workspace::bytes_to_take<T>(count);
    return nullptr;
  }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_ = 0;
};

// Reserves what `layout` takes, and takes it.
template <class Layout>
void take_all(Workspace& workspace, const Layout& layout) {
  WorkspaceBytes bytes;
  layout(bytes);
  workspace.reserve(bytes.bytes());
  layout(workspace);
}

template <class Layout>
Workspace::Workspace(const Layout& layout) : Workspace() {
  take_all(*this, layout);
}

}  // namespace vmoe
