#include "core/workspace.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <mutex>
#include <new>
#include <utility>

namespace vmoe {
namespace {

constexpr size_t kLargePage = size_t{1} << 21;

// Returns the size of a small page in bytes. This is 4 KiB, except on some ARM systems, where it is 16 or 64 KiB.
size_t small_page() {
  static const auto bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

// Idle buffers of the process. They are never destroyed, because calls may still run while the process ends.
struct IdleBuffers {
  std::mutex mutex;
  std::vector<PageBuffer> buffers;
};

IdleBuffers& idle_buffers() {
  static auto* idle = new IdleBuffers;
  return *idle;
}

}  // namespace

PageBuffer::PageBuffer(size_t bytes) {
  if (bytes == 0) return;
  // Large buffers begin at a large-page boundary. The size of every buffer is rounded up to small pages.
  const size_t page = small_page();
  const size_t alignment = bytes >= kLargePage ? kLargePage : page;
  if (bytes > SIZE_MAX - 2 * kLargePage) throw std::bad_alloc();
  const size_t asked = bytes;
  bytes = (bytes + page - 1) / page * page;
  void* data = mmap(nullptr, bytes + alignment, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  // mmap aligns only to small pages, so the memory before and after the aligned part is returned to the system.
  char* start = static_cast<char*>(data);
  const size_t before = (alignment - reinterpret_cast<uintptr_t>(data) % alignment) % alignment;
  if (before > 0) munmap(start, before);
  munmap(start + before + bytes, alignment - before);
  data_ = {start + before, Unmap{bytes}};
  forbid_access(start + before + asked, bytes - asked);
#ifdef MADV_HUGEPAGE
  if (alignment == kLargePage) madvise(start + before, bytes, MADV_HUGEPAGE);
#endif
}

void PageBuffer::Unmap::operator()(void* data) const {
  allow_access(data, bytes);  // other memory may later get these addresses
  munmap(data, bytes);
}

Workspace::Workspace() {
  IdleBuffers& idle = idle_buffers();
  const std::lock_guard<std::mutex> lock(idle.mutex);
  if (idle.buffers.empty()) return;
  buffer_ = std::move(idle.buffers.back());
  idle.buffers.pop_back();
}

Workspace::~Workspace() {
  try {
    if (!more_.empty()) {
      more_.clear();
      buffer_ = PageBuffer();
      // Allocate some extra memory, so that a new buffer is not needed each time if batches grow slowly.
      buffer_ = PageBuffer(taken_ + taken_ / 4);
    }
    forbid_access(buffer_.data(), buffer_.bytes());
    IdleBuffers& idle = idle_buffers();
    const std::lock_guard<std::mutex> lock(idle.mutex);
    idle.buffers.push_back(std::move(buffer_));
  } catch (...) {
    buffer_ = PageBuffer();  // if there is no memory for the list of idle buffers, return the buffer to the system
  }
}

void* Workspace::take_bytes(size_t bytes) {
  constexpr size_t kAlignment = 64;
  const size_t place = taken_;
  const size_t size = (bytes + kAlignment - 1) / kAlignment * kAlignment + kGuardBytes;
  taken_ += size;
  void* data = taken_ > buffer_.bytes() ? more_.emplace_back(size).data() : static_cast<char*>(buffer_.data()) + place;
  allow_uninitialised(data, bytes);
  return data;
}

}  // namespace vmoe
