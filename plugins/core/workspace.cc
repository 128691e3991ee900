#include "core/workspace.h"

#include <sys/mman.h>

#include <cstdint>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace vmoe {
namespace {

constexpr size_t kLargePage = size_t{1} << 21;

// Idle buffers of the process. Never destroyed: calls may still run while the process ends.
struct IdleBuffers {
  std::mutex mutex;
  std::vector<PageBuffer> buffers;
};

IdleBuffers& Idle() {
  static auto* idle = new IdleBuffers;
  return *idle;
}

}  // namespace

PageBuffer::PageBuffer(size_t bytes) {
  if (bytes == 0) return;
  const size_t unit = bytes >= kLargePage ? kLargePage : 4096;
  if (bytes > SIZE_MAX - 2 * unit) throw std::bad_alloc();
  bytes = (bytes + unit - 1) / unit * unit;
  void* data = mmap(nullptr, bytes + unit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  // The system aligns to small pages; what stands before and after the aligned part goes back.
  const auto start = reinterpret_cast<uintptr_t>(data);
  const uintptr_t aligned = (start + unit - 1) / unit * unit;
  if (aligned > start) munmap(data, aligned - start);
  const size_t behind = start + unit - aligned;
  if (behind > 0) munmap(reinterpret_cast<void*>(aligned + bytes), behind);
  data_ = reinterpret_cast<void*>(aligned);
  bytes_ = bytes;
#ifdef MADV_HUGEPAGE
  if (unit == kLargePage) madvise(data_, bytes_, MADV_HUGEPAGE);
#endif
}

PageBuffer::~PageBuffer() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

PageBuffer::PageBuffer(PageBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

PageBuffer& PageBuffer::operator=(PageBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Workspace::Workspace() {
  IdleBuffers& idle = Idle();
  const std::lock_guard<std::mutex> lock(idle.mutex);
  if (idle.buffers.empty()) return;
  buffer_ = std::move(idle.buffers.back());
  idle.buffers.pop_back();
}

Workspace::~Workspace() {
  IdleBuffers& idle = Idle();
  const std::lock_guard<std::mutex> lock(idle.mutex);
  try {
    idle.buffers.push_back(std::move(buffer_));
  } catch (...) {
    // Without room to keep it, the buffer goes back to the system.
  }
}

void Workspace::Reserve(size_t bytes) {
  used_ = 0;
  if (bytes > buffer_.bytes()) {
    buffer_ = PageBuffer();
    // Some slack, so that slowly growing batches don't allocate each time.
    buffer_ = PageBuffer(bytes + bytes / 4);
  }
}

}  // namespace vmoe
