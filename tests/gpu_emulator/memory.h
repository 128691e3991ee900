// Memory that watches its accesses. It finds reads of what was never written, accesses out of bounds, misaligned
// accesses, stores to inputs, races, and non-coherent loads of what the same launch writes.
//
// A period is the time between two barriers of a block. Blocks run one after another, so no two of them share a period.
// Two accesses race if at least one is a store, no barrier is between them, and they are by different threads: by two
// threads of a block in one period, or by two blocks of a launch. Whether a race is found does not depend on the order
// in which threads run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace gpu_emulator {

// Who accesses memory, and when. The periods ascend with time.
struct Clock {
  uint32_t period = 1;
  uint32_t block = 1;   // the first period of the current block
  uint32_t launch = 1;  // the first period of the current launch
  uint16_t thread = 0;
};

struct Access {
  uint64_t address;
  uint32_t bytes;  // a power of two
  bool is_store;
  bool is_non_coherent;
};

// Receives the kind of a fault, and a sentence about it.
using Report = std::function<void(const char* kind, const std::string& what)>;

// One block of memory. Its elements are watched in granules of 2 bytes.
class Buffer {
 public:
  // If `bytes` is null, the buffer has its own memory, which no one has written yet. Otherwise, it is the memory at
  // `bytes`.
  Buffer(std::string name, size_t size, unsigned char* bytes = nullptr);
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  unsigned char* bytes() { return bytes_; }
  size_t size() const { return size_; }

  // From now on, no kernel may write the buffer. Everything in it counts as written.
  void seal() { marks_.clear(); }
  // Records that the host writes some bytes.
  void set(size_t offset, size_t size);
  // Reports the first of these bytes that was never written.
  void expect_set(size_t offset, size_t size, const Report& report) const;
  // Makes all bytes unwritten again, as shared memory is for a new block.
  void forget();

  // Checks an access at `offset`, which may be out of bounds. Returns the address of the bytes, or null if the access
  // must not take place.
  unsigned char* access(const Access& access, int64_t offset, const Clock& clock, const Report& report);

 private:
  // The last accesses to a granule. A period of 0 means that there was none.
  struct Mark {
    uint32_t written = 0;
    uint32_t read = 0;
    uint32_t first_read = 0;  // in the launch of `read`
    uint32_t read_non_coherently = 0;
    uint16_t writer = 0;
    uint16_t reader = 0;
    bool has_readers = false;  // several threads have read the granule in the period `read`
    bool is_set = false;
  };

  std::string name_;
  size_t size_;
  std::vector<unsigned char> own_;
  unsigned char* bytes_;
  std::vector<Mark> marks_;  // empty if the buffer is sealed

  std::string place(int64_t offset) const;
  void report_fault(const Report& report, const char* kind, int64_t offset, const std::string& what) const;
  void load(Mark& mark, const Access& access, int64_t offset, const Clock& clock, const Report& report);
  void store(Mark& mark, int64_t offset, const Clock& clock, const Report& report);
};

// Device memory. Each buffer has 2^40 addresses of its own, so that an access out of bounds never hits another buffer.
// These addresses are not canonical: if the host uses one, the process ends. Host memory may be registered, so that
// kernels can access it.
class DeviceMemory {
 public:
  explicit DeviceMemory(Report report) : report_(std::move(report)) {}

  // Returns the address of a new buffer. Its remainder modulo 256 is `misalignment`.
  uint64_t allocate(size_t size, uint32_t misalignment = 0);
  // Returns whether `address` is the address of a buffer.
  bool release(uint64_t address);
  // Each returns whether the bytes are in a buffer.
  bool seal(uint64_t address);
  bool write(uint64_t address, const void* from, size_t size);
  bool read(uint64_t address, void* to, size_t size);

  static bool is_device_address(uint64_t address);

  void register_host(void* memory, size_t size, bool is_input);
  // If `is_output` is set, reports bytes that no kernel wrote.
  void unregister_host(void* memory, bool is_output);

  unsigned char* access(const Access& access, const Clock& clock);

 private:
  struct Place {
    Buffer* buffer;  // null if there is none
    int64_t offset;
  };

  Report report_;
  std::vector<std::unique_ptr<Buffer>> buffers_;  // null after release
  std::vector<uint32_t> misalignments_;
  std::map<uint64_t, std::unique_ptr<Buffer>> host_;  // by address

  Place find(uint64_t address) const;
};

}  // namespace gpu_emulator
