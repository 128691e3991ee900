// A PTX kernel in the form in which the emulator runs it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "instruction.h"

namespace gpu_emulator {

struct Parameter {
  uint32_t offset;
  uint32_t bytes;
};

// The first registers contain the position of a thread and the size of the launch, in this order.
inline constexpr std::array<const char*, 12> kSpecialRegisters{"%tid.x",   "%tid.y",    "%tid.z",    "%ntid.x",
                                                               "%ntid.y",  "%ntid.z",   "%ctaid.x",  "%ctaid.y",
                                                               "%ctaid.z", "%nctaid.x", "%nctaid.y", "%nctaid.z"};

// Shared memory begins at this address, so that addresses before it are out of bounds.
inline constexpr uint32_t kSharedBase = 1024;

struct Kernel {
  std::string name;
  std::vector<Instruction> code;
  std::vector<std::string> text;    // the PTX statement of each instruction
  std::vector<uint64_t> registers;  // initial values, which matter only for constants
  std::vector<bool> is_constant;
  std::vector<Parameter> parameters;
  uint32_t parameter_bytes = 0;
  uint32_t max_threads = 1024;
};

// Reads all kernels of a PTX module. Throws std::runtime_error with the first statement that the emulator does not
// know.
std::vector<Kernel> read_module(const std::string& ptx);

}  // namespace gpu_emulator
