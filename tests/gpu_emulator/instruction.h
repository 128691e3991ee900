// An instruction in the form in which the emulator runs it.
#pragma once

#include <array>
#include <cstdint>

namespace gpu_emulator {

enum class Kind : uint8_t {
  kCompute,        // to[0] = a value computed from the registers `from`
  kPack,           // to[0] = the two halves from[0] (low) and from[1]
  kUnpack,         // to[0] (low) and to[1] = the two halves of from[0]
  kLoadParameter,  // to[0] = the kernel's parameters at `offset`
  kLoad,           // to[0 ... count - 1] = memory at from[0] + offset
  kStore,          // memory at from[0] + offset = to[0 ... count - 1]
  kBranch,         // continues at instruction `offset` if the predicate from[0] has the value `condition`
  kExchange,       // to[0] = from[0] of the lane at distance from[1]; from[2] limits the lanes, from[3] is the mask
  kBarrier,        // waits for all threads of the block
  kReturn,
};

class Machine;
struct Instruction;

// Runs the current thread, whose registers are `r`, from an instruction on. Returns the instruction at which the thread
// waits, has exited or divides by zero.
using Run = const Instruction* (*)(Machine& machine, const Instruction* at, uint64_t* r);

// A register is given by its index. Constants are registers, too.
struct Instruction {
  Run run = nullptr;  // set for Kind::kCompute; the machine sets the others
  std::array<uint16_t, 4> to{};
  std::array<uint16_t, 4> from{};
  int32_t offset = 0;
  Kind kind = Kind::kCompute;
  uint8_t size = 0;   // bytes of one value in memory, or of a half
  uint8_t count = 1;  // number of values in memory
  bool condition = true;
  bool is_shared = false;        // accesses shared memory instead of device memory
  bool is_non_coherent = false;  // a load that may use a cache that does not see stores of the same launch
  mutable uint64_t runs = 0;     // how often threads have run it
};

// A Run does its own instruction and calls this function at its end. With optimization, the compiler makes a jump of
// such a call, so the stack does not grow.
#ifndef __OPTIMIZE__
#error "compile the emulator with optimization"
#endif
inline const Instruction* run_from(Machine& machine, const Instruction* at, uint64_t* r) {
  ++at->runs;
  return at->run(machine, at, r);
}

}  // namespace gpu_emulator
