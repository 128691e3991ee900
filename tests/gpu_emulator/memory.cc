#include "memory.h"

#include <algorithm>
#include <cstring>

namespace gpu_emulator {
namespace {

constexpr uint64_t kDeviceBit = uint64_t{1} << 62;
constexpr uint64_t kBufferBits = 40;
constexpr uint64_t kFirstByte = uint64_t{1} << 32;  // of a buffer; a multiple of 256
constexpr size_t kGranule = 2;                      // bytes; no kernel stores less at once
constexpr unsigned char kGarbage = 0xa5;

}  // namespace

Buffer::Buffer(std::string name, size_t size, unsigned char* bytes)
    : name_(std::move(name)),
      size_(size),
      own_(bytes == nullptr ? size : 0, kGarbage),
      bytes_(bytes == nullptr ? own_.data() : bytes),
      marks_((size + kGranule - 1) / kGranule + 1) {}

void Buffer::set(size_t offset, size_t size) {
  if (marks_.empty()) return;
  for (size_t i = offset / kGranule; i * kGranule < offset + size; ++i) marks_[i].is_set = true;
}

void Buffer::expect_set(size_t offset, size_t size, const Report& report) const {
  if (marks_.empty()) return;
  for (size_t i = offset / kGranule; i * kGranule < offset + size; ++i) {
    if (marks_[i].is_set) continue;
    return report("never written", place(static_cast<int64_t>(i * kGranule)) + " is read by the host");
  }
}

void Buffer::forget() {
  std::fill(marks_.begin(), marks_.end(), Mark{});
  std::fill(own_.begin(), own_.end(), kGarbage);
}

std::string Buffer::place(int64_t offset) const {
  return "byte " + std::to_string(offset) + " of the " + std::to_string(size_) + " of " + name_;
}

inline void Buffer::load(Mark& mark, const Access& access, int64_t offset, const Clock& clock, const Report& report) {
  if (!mark.is_set) report_fault(report, "never written", offset, "is read");
  if (access.is_non_coherent) {
    if (mark.written >= clock.launch)
      report_fault(report, "non-coherent load", offset, "was written by this launch before");
    mark.read_non_coherently = clock.period;
  }
  if (mark.read == clock.period) {
    mark.has_readers |= mark.reader != clock.thread;
  } else {
    if (mark.read < clock.launch) mark.first_read = clock.period;
    mark.has_readers = false;
  }
  mark.read = clock.period;
  mark.reader = clock.thread;
}

inline void Buffer::store(Mark& mark, int64_t offset, const Clock& clock, const Report& report) {
  const bool by_other_block = mark.read >= clock.launch && mark.first_read < clock.block;
  if (by_other_block || (mark.read == clock.period && (mark.has_readers || mark.reader != clock.thread)))
    report_fault(report, "race", offset, "is read and then written");
  if (mark.read_non_coherently >= clock.launch)
    report_fault(report, "non-coherent load", offset, "is written by the same launch after");
  mark.is_set = true;
  mark.written = clock.period;
  mark.writer = clock.thread;
}

unsigned char* Buffer::access(const Access& access, int64_t offset, const Clock& clock, const Report& report) {
  if (offset < 0 || static_cast<uint64_t>(offset) + access.bytes > size_) {
    report_fault(report, "out of bounds", offset, access.is_store ? "is written" : "is read");
    return nullptr;
  }
  if ((access.address & (access.bytes - 1)) != 0) {
    report_fault(report, "misaligned", offset, "is accessed with " + std::to_string(access.bytes) + " bytes at once");
    return nullptr;
  }
  unsigned char* const data = bytes_ + offset;
  if (marks_.empty()) {
    if (!access.is_store) return data;
    report_fault(report, "store to an input", offset, "is written");
    return nullptr;
  }
  Mark* const first = &marks_[static_cast<size_t>(offset) / kGranule];
  Mark* const end = &marks_[(static_cast<size_t>(offset) + access.bytes - 1) / kGranule] + 1;
  for (Mark* mark = first; mark < end; ++mark) {
    const bool by_other_block = mark->written >= clock.launch && mark->written < clock.block;
    if (by_other_block || (mark->written == clock.period && mark->writer != clock.thread)) {
      report_fault(report, "race", offset, access.is_store ? "is written by two threads" : "is written and then read");
    }
    access.is_store ? store(*mark, offset, clock, report) : load(*mark, access, offset, clock, report);
  }
  return data;
}

// Not inlined, since it is rarely called.
[[gnu::noinline]] void Buffer::report_fault(const Report& report, const char* kind, int64_t offset,
                                            const std::string& what) const {
  report(kind, place(offset) + " " + what);
}

bool DeviceMemory::is_device_address(uint64_t address) { return (address & kDeviceBit) != 0; }

uint64_t DeviceMemory::allocate(size_t size, uint32_t misalignment) {
  const uint64_t number = buffers_.size();
  buffers_.push_back(std::make_unique<Buffer>("buffer " + std::to_string(number), size));
  misalignments_.push_back(misalignment);
  return kDeviceBit + (number << kBufferBits) + kFirstByte + misalignment;
}

DeviceMemory::Place DeviceMemory::find(uint64_t address) const {
  if (is_device_address(address)) {
    const uint64_t number = (address & ~kDeviceBit) >> kBufferBits;
    if (number >= buffers_.size() || buffers_[number] == nullptr) return {nullptr, 0};
    const uint64_t in_buffer = address & ((uint64_t{1} << kBufferBits) - 1);
    return {buffers_[number].get(), static_cast<int64_t>(in_buffer - kFirstByte - misalignments_[number])};
  }
  // Host memory: the last block that begins at or before the address.
  auto after = host_.upper_bound(address);
  if (after == host_.begin()) return {nullptr, 0};
  --after;
  return {after->second.get(), static_cast<int64_t>(address - after->first)};
}

bool DeviceMemory::release(uint64_t address) {
  const auto [buffer, offset] = find(address);
  if (!is_device_address(address) || buffer == nullptr || offset != 0) return false;
  buffers_[(address & ~kDeviceBit) >> kBufferBits].reset();
  return true;
}

bool DeviceMemory::seal(uint64_t address) {
  const Place at = find(address);
  if (at.buffer != nullptr) at.buffer->seal();
  return at.buffer != nullptr;
}

bool DeviceMemory::write(uint64_t address, const void* from, size_t size) {
  const auto [buffer, offset] = find(address);
  if (buffer == nullptr || offset < 0 || static_cast<uint64_t>(offset) + size > buffer->size()) return false;
  if (size > 0) std::memcpy(buffer->bytes() + offset, from, size);
  buffer->set(static_cast<size_t>(offset), size);
  return true;
}

bool DeviceMemory::read(uint64_t address, void* to, size_t size) {
  const auto [buffer, offset] = find(address);
  if (buffer == nullptr || offset < 0 || static_cast<uint64_t>(offset) + size > buffer->size()) return false;
  buffer->expect_set(static_cast<size_t>(offset), size, report_);
  if (size > 0) std::memcpy(to, buffer->bytes() + offset, size);
  return true;
}

void DeviceMemory::register_host(void* memory, size_t size, bool is_input) {
  const auto address = reinterpret_cast<uint64_t>(memory);
  auto buffer = std::make_unique<Buffer>("host memory", size, static_cast<unsigned char*>(memory));
  if (is_input) buffer->seal();
  host_[address] = std::move(buffer);
}

void DeviceMemory::unregister_host(void* memory, bool is_output) {
  const auto found = host_.find(reinterpret_cast<uint64_t>(memory));
  if (found == host_.end()) return;
  if (is_output) found->second->expect_set(0, found->second->size(), report_);
  host_.erase(found);
}

unsigned char* DeviceMemory::access(const Access& access, const Clock& clock) {
  const auto [buffer, offset] = find(access.address);
  if (buffer != nullptr) return buffer->access(access, offset, clock, report_);
  report_("out of bounds", "there is no memory at address " + std::to_string(access.address));
  return nullptr;
}

}  // namespace gpu_emulator
