// Counts the accesses to memory that a GPU makes for a kernel.
//
// A request is the n-th execution of an instruction by the lanes of a warp. The emulator runs lanes one after another,
// and requests put them together again. The machine code may combine several PTX instructions into one request, so
// these are counts of the PTX.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace gpu_emulator {

struct KernelCosts {
  uint64_t threads = 0;
  uint64_t instructions = 0;
  uint64_t requests = 0;          // to device memory
  uint64_t bytes = 0;             // that these requests load and store
  uint64_t sectors = 0;           // sectors of 32 bytes that the requests touch
  uint64_t distinct_sectors = 0;  // the same, but a block counts each sector once for loads and once for stores
  uint64_t launch_sectors = 0;    // the same, but a launch counts each sector once for loads and once for stores
  uint64_t shared_requests = 0;
  uint64_t shared_cycles = 0;  // least possible: one for each 128 bytes of a request
  uint64_t conflicts = 0;      // further cycles, because several addresses are in one of the 32 banks
};

class Costs {
 public:
  // Begins a launch of a kernel with this number of instructions. `runs` is how often threads have run any of them.
  void begin_launch(const std::string& kernel, size_t instructions, uint64_t runs);
  // Begins a block with this number of threads.
  void begin_block(uint32_t threads);
  void count(uint32_t thread, size_t instruction, uint64_t address, uint32_t bytes, bool is_shared, bool is_store);
  void end_block();
  void end_launch(uint64_t runs);

  const std::map<std::string, KernelCosts>& by_kernel() const { return by_kernel_; }

 private:
  struct Lane {
    uint32_t thread;
    uint32_t instruction;
    uint32_t execution;
    uint32_t bytes;
    uint64_t address;
    bool is_shared;
    bool is_store;
  };

  std::map<std::string, KernelCosts> by_kernel_;
  KernelCosts* current_ = nullptr;
  size_t instructions_ = 0;
  uint64_t runs_before_ = 0;
  std::vector<uint32_t> executions_;  // of each instruction by each thread
  std::vector<Lane> lanes_;
  std::set<std::pair<uint64_t, bool>> launch_sectors_;  // their number, and whether they are stored

  void add_request(const Lane* first, const Lane* end);
  void add_shared_request(const Lane* first, const Lane* end);
};

}  // namespace gpu_emulator
