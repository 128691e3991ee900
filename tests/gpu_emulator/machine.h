// A GPU on the CPU. It runs the PTX of kernels, one thread at a time, and reports what a GPU would do wrong in silence.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "costs.h"
#include "memory.h"
#include "module.h"

namespace gpu_emulator {

struct Launch {
  std::array<uint32_t, 3> grid;
  std::array<uint32_t, 3> block;
  size_t shared_bytes;
};

// The order in which threads and blocks run.
enum class Order { kAscending, kDescending, kRandom };

class Machine {
 public:
  Machine();

  using Kernels = std::map<std::string, Kernel>;

  // Adds the kernels of a module. A dialect is a version of PTX, and each has its own kernels. Throws
  // std::runtime_error with the first statement that the emulator does not know.
  void add_module(const std::string& ptx, int dialect);
  // The kernels of a dialect, by name.
  Kernels& kernels(int dialect) { return kernels_[dialect]; }

  // Runs a kernel. `arguments` has the address of each parameter's value. Returns false if the launch has a fault after
  // which it can't continue.
  bool launch(Kernel& kernel, const Launch& launch, const void* const* arguments);

  // Returns the faults since the last call, one sentence each. For each kind and instruction, only the first is kept.
  std::vector<std::string> take_faults();

  // Adds a fault. During a launch, the sentence also names the kernel, the thread and the instruction.
  void report(const char* kind, const std::string& what);

  // Adds a fault after which the launch can't continue.
  [[noreturn]] void stop(const Instruction* at, const char* kind, const std::string& what);

  DeviceMemory& memory() { return memory_; }

  Order order = Order::kAscending;
  uint64_t seed = 1;       // of random orders
  Costs* costs = nullptr;  // counts accesses to memory if it is not null

 private:
  struct Instructions;
  struct Thread {
    enum State : uint8_t { kReady, kAtExchange, kAtBarrier, kExited };
    State state = kReady;
    uint32_t next = 0;  // index of the next instruction
  };

  static Run run_of(const Instruction& at);
  template <typename Value>
  static Run run_of(Kind kind);
  void run_block(const Launch& launch, const std::array<uint32_t, 3>& place);
  void run_warp(uint32_t first, const std::vector<uint32_t>& lanes);
  void run_thread(uint32_t index);
  void exchange(uint32_t first);
  void check_mask(uint32_t t, uint32_t first, uint32_t mask);
  bool all_at_barrier();
  unsigned char* access(const Instruction* at, uint64_t address);
  std::vector<uint32_t> order_of(uint32_t count);
  uint64_t* registers_of(uint32_t thread) { return &registers_[thread * kernel_->registers.size()]; }

  std::map<int, Kernels> kernels_;
  std::map<std::string, std::string> faults_;  // by kind and place
  const Report to_faults_;
  DeviceMemory memory_;
  Clock clock_;
  std::mt19937_64 random_;

  // The current launch.
  const Kernel* kernel_ = nullptr;
  std::vector<unsigned char> parameters_;
  std::unique_ptr<Buffer> shared_;
  std::vector<uint64_t> registers_;  // of all threads of a block
  std::vector<uint64_t> first_registers_;
  std::vector<Thread> threads_;
  std::array<uint32_t, 3> place_{};  // of the current block
  uint64_t branches_ = 0;            // of the current thread since it last waited
  const Instruction* at_ = nullptr;  // the current instruction; null outside of instructions
};

}  // namespace gpu_emulator
