// The PTX instructions that only use registers.
#pragma once

#include <cstddef>
#include <string>

#include "instruction.h"

namespace gpu_emulator {

struct RegisterInstruction {
  Run run;
  size_t sources;
};

// Returns the instruction with this PTX name, or null if the emulator does not have it.
const RegisterInstruction* find_register_instruction(const std::string& name);

}  // namespace gpu_emulator
