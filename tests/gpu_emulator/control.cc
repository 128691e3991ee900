// The C functions with which tests control the emulator. Texts that they return are valid until the next call.
#include <cstring>
#include <sstream>
#include <stdexcept>

#include "fake_runtime.h"
#include "instructions.h"

using gpu_emulator::Costs;
using gpu_emulator::device;
using gpu_emulator::Kernel;
using gpu_emulator::Kind;
using gpu_emulator::Machine;
using gpu_emulator::Order;

namespace {

std::string g_text;
Costs g_costs;

const char* keep(std::string text) {
  g_text = std::move(text);
  return g_text.c_str();
}

}  // namespace

extern "C" {

// Selects the dialect (80 or 100), the order of threads and blocks (0: ascending, 1: descending, 2: random with this
// seed), and the number of multiprocessors.
void emulator_configure(int dialect, int order, uint64_t seed, int processors) {
  device().dialect = dialect;
  device().machine.order = static_cast<Order>(order);
  device().machine.seed = seed;
  device().processors = processors;
}

// Like cudaMalloc, but the remainder of the address modulo 256 is `misalignment`.
uint64_t emulator_allocate(size_t bytes, uint32_t misalignment) {
  return device().machine.memory().allocate(bytes, misalignment);
}

// Makes the memory at an address an input, which no kernel may write.
void emulator_seal(uint64_t address) { device().machine.memory().seal(address); }

// Returns the faults since the last call, one per line.
const char* emulator_take_faults() {
  std::string text;
  for (const std::string& fault : device().machine.take_faults()) text += fault + "\n";
  return keep(text);
}

// Reads a module in the current dialect. Returns "" or why the emulator does not accept it.
const char* emulator_read_module(const char* ptx) {
  try {
    device().machine.add_module(ptx, device().dialect);
    return "";
  } catch (const std::exception& error) {
    return keep(error.what());
  }
}

// Launches a kernel of the current dialect by its name. Returns whether it ran to its end.
int emulator_launch(const char* kernel, const uint32_t* grid, const uint32_t* block, size_t shared_bytes,
                    const void* const* arguments) {
  Machine& machine = device().machine;
  Kernel& found = machine.kernels(device().dialect).at(kernel);
  return machine.launch(found, {{grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, shared_bytes}, arguments);
}

// Returns the statements of the current dialect, one per line: whether a thread has run it since the library was
// loaded (0 or 1), the kernel, and the statement.
const char* emulator_statements() {
  std::string text;
  for (const auto& [name, kernel] : device().machine.kernels(device().dialect)) {
    for (size_t i = 0; i + 1 < kernel.code.size(); ++i) {  // without the end of the kernel
      text += std::string(kernel.code[i].runs > 0 ? "1" : "0") + " " + name + " " + kernel.text[i] + "\n";
    }
  }
  return keep(text);
}

// Removes an exchange (after which each lane has its own value) or a barrier from the current dialect's kernels, and
// restores the one that was removed before. `index` counts the kernels' exchanges or barriers; if there are fewer,
// nothing is removed. Returns their number.
size_t emulator_remove(const char* what, size_t index) {
  static gpu_emulator::Instruction* removed = nullptr;
  static gpu_emulator::Instruction original;
  if (removed != nullptr) *removed = original;
  removed = nullptr;
  const Kind kind = std::strcmp(what, "exchange") == 0 ? Kind::kExchange : Kind::kBarrier;
  size_t count = 0;
  for (auto& [name, kernel] : device().machine.kernels(device().dialect)) {
    for (gpu_emulator::Instruction& at : kernel.code) {
      if (at.kind != kind || count++ != index) continue;
      removed = &at;
      original = at;
      at.kind = Kind::kCompute;
      at.run = gpu_emulator::find_register_instruction("mov.b64")->run;
      if (kind == Kind::kBarrier) at.to[0] = at.from[0];  // a move of a register to itself
    }
  }
  return count;
}

void emulator_count_costs(int is_on) {
  g_costs = {};
  device().machine.costs = is_on != 0 ? &g_costs : nullptr;
}

// Returns the costs of each kernel since emulator_count_costs, one line each: its name and the numbers of KernelCosts.
const char* emulator_costs() {
  std::ostringstream text;
  for (const auto& [name, c] : g_costs.by_kernel()) {
    text << name;
    for (const uint64_t number : {c.threads, c.instructions, c.requests, c.bytes, c.sectors, c.distinct_sectors,
                                  c.launch_sectors, c.shared_requests, c.shared_cycles, c.conflicts}) {
      text << ' ' << number;
    }
    text << '\n';
  }
  return keep(text.str());
}

}  // extern "C"
