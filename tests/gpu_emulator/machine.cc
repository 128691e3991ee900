#include "machine.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>

#include "arithmetic.h"

namespace gpu_emulator {
namespace {

constexpr uint32_t kWarp = 32;
constexpr uint32_t kAllLanes = 0xffffffff;
constexpr uint32_t kMostThreads = 1024;
constexpr uint32_t kMostGridYZ = 65535;
constexpr size_t kMostSharedBytes = 48 << 10;   // without a request for more
constexpr uint64_t kMostBranches = 20'000'000;  // of a thread between two waits

struct Stopped {};

uint64_t runs_of(const Kernel& kernel) {
  return std::accumulate(kernel.code.begin(), kernel.code.end(), uint64_t{0},
                         [](uint64_t sum, const Instruction& at) { return sum + at.runs; });
}

}  // namespace

Machine::Machine()
    : to_faults_([this](const char* kind, const std::string& what) { report(kind, what); }), memory_(to_faults_) {}

void Machine::add_module(const std::string& ptx, int dialect) {
  for (Kernel& kernel : read_module(ptx)) {
    for (Instruction& instruction : kernel.code) {
      if (instruction.kind != Kind::kCompute) instruction.run = run_of(instruction);
    }
    kernels_[dialect][kernel.name] = std::move(kernel);
  }
}

std::vector<std::string> Machine::take_faults() {
  std::vector<std::string> taken;
  for (const auto& [place, fault] : faults_) taken.push_back(fault);
  faults_.clear();
  return taken;
}

void Machine::report(const char* kind, const std::string& what) {
  std::string where;
  std::string place = kind;
  if (kernel_ != nullptr) {
    where =
        "; kernel " + kernel_->name + ", block (" + std::to_string(place_[0]) + ", " + std::to_string(place_[1]) + ")";
    place += " " + kernel_->name;
    if (at_ != nullptr) {
      const auto index = static_cast<size_t>(at_ - kernel_->code.data());
      where += ", thread " + std::to_string(clock_.thread) + ", '" + kernel_->text[index] + "'";
      place += " " + std::to_string(index);
    }
  }
  faults_.emplace(place, std::string(kind) + ": " + what + where);
}

void Machine::stop(const Instruction* at, const char* kind, const std::string& what) {
  at_ = at;
  report(kind, what);
  throw Stopped{};
}

std::vector<uint32_t> Machine::order_of(uint32_t count) {
  std::vector<uint32_t> indices(count);
  std::iota(indices.begin(), indices.end(), 0);
  if (order == Order::kDescending) std::reverse(indices.begin(), indices.end());
  if (order == Order::kRandom) std::shuffle(indices.begin(), indices.end(), random_);
  return indices;
}

bool Machine::launch(Kernel& kernel, const Launch& launch, const void* const* arguments) {
  const auto [grid_x, grid_y, grid_z] = launch.grid;
  const uint64_t threads = uint64_t{launch.block[0]} * launch.block[1] * launch.block[2];
  const uint64_t blocks = uint64_t{grid_x} * grid_y * grid_z;
  if (threads == 0 || threads > std::min(kernel.max_threads, kMostThreads) || blocks == 0 || grid_x > INT32_MAX ||
      grid_y > kMostGridYZ || grid_z > kMostGridYZ || launch.shared_bytes > kMostSharedBytes) {
    report("refused launch", kernel.name + " with " + std::to_string(threads) + " threads, a grid of (" +
                                 std::to_string(grid_x) + ", " + std::to_string(grid_y) + ", " +
                                 std::to_string(grid_z) + ") and " + std::to_string(launch.shared_bytes) +
                                 " bytes of shared memory");
    return false;
  }
  kernel_ = &kernel;
  random_.seed(seed);
  parameters_.resize(kernel.parameter_bytes);
  for (size_t i = 0; i < kernel.parameters.size(); ++i) {
    std::memcpy(parameters_.data() + kernel.parameters[i].offset, arguments[i], kernel.parameters[i].bytes);
  }
  shared_ = std::make_unique<Buffer>("shared memory", launch.shared_bytes);
  threads_.resize(threads);
  first_registers_ = kernel.registers;
  for (size_t i = 0; i < first_registers_.size(); ++i) {
    if (!kernel.is_constant[i]) first_registers_[i] = random_();  // a result that depends on it will be wrong
  }
  std::copy(launch.block.begin(), launch.block.end(), first_registers_.begin() + 3);
  std::copy(launch.grid.begin(), launch.grid.end(), first_registers_.begin() + 9);
  registers_.resize(first_registers_.size() * threads);
  clock_.launch = ++clock_.period;
  if (costs != nullptr) costs->begin_launch(kernel.name, kernel.code.size(), runs_of(kernel));
  bool is_done = true;
  try {
    for (const uint32_t i : order_of(static_cast<uint32_t>(blocks))) {
      run_block(launch, {i % grid_x, i / grid_x % grid_y, i / grid_x / grid_y});
    }
  } catch (const Stopped&) {
    is_done = false;
  }
  if (costs != nullptr) costs->end_launch(runs_of(kernel));
  ++clock_.period;
  at_ = nullptr;
  kernel_ = nullptr;
  return is_done;
}

void Machine::run_block(const Launch& launch, const std::array<uint32_t, 3>& place) {
  place_ = place;
  clock_.block = ++clock_.period;
  shared_->forget();
  std::copy(place.begin(), place.end(), first_registers_.begin() + 6);
  const auto count = static_cast<uint32_t>(threads_.size());
  for (uint32_t t = 0; t < count; ++t) {
    std::copy(first_registers_.begin(), first_registers_.end(), registers_of(t));
    registers_of(t)[0] = t % launch.block[0];
    registers_of(t)[1] = t / launch.block[0] % launch.block[1];
    registers_of(t)[2] = t / launch.block[0] / launch.block[1];
    threads_[t] = {};
  }
  if (costs != nullptr) costs->begin_block(count);
  do {
    for (const uint32_t warp : order_of((count + kWarp - 1) / kWarp)) {
      const uint32_t first = warp * kWarp;
      run_warp(first, order_of(std::min(kWarp, count - first)));
    }
  } while (all_at_barrier());
  if (costs != nullptr) costs->end_block();
}

// Runs the lanes of a warp until each waits at a barrier or has exited.
void Machine::run_warp(uint32_t first, const std::vector<uint32_t>& lanes) {
  for (;;) {
    bool exchanges = false;
    for (const uint32_t lane : lanes) {
      Thread& thread = threads_[first + lane];
      if (thread.state == Thread::kReady) run_thread(first + lane);
      exchanges |= thread.state == Thread::kAtExchange;
    }
    if (!exchanges) return;
    exchange(first);
  }
}

// Returns whether all threads wait at the barrier, and lets them continue. Returns false if all have exited.
bool Machine::all_at_barrier() {
  const auto waits = [](const Thread& thread) { return thread.state == Thread::kAtBarrier; };
  const auto waiting = std::count_if(threads_.begin(), threads_.end(), waits);
  if (waiting == 0) return false;
  const Thread& one = *std::find_if(threads_.begin(), threads_.end(), waits);
  at_ = &kernel_->code[one.next - 1];
  if (static_cast<size_t>(waiting) < threads_.size()) {
    stop(at_, "barrier",
         std::to_string(threads_.size() - static_cast<size_t>(waiting)) + " threads have exited instead");
  }
  for (uint32_t t = 0; t < threads_.size(); ++t) {
    if (threads_[t].next != threads_[t / kWarp * kWarp].next)
      stop(at_, "barrier", "lanes of a warp wait at different ones");
    threads_[t].state = Thread::kReady;
  }
  ++clock_.period;
  return true;
}

// Stops if a lane in the mask of thread `t` does not take part in its exchange.
void Machine::check_mask(uint32_t t, uint32_t first, uint32_t mask) {
  if ((mask >> (t - first) & 1) == 0) stop(at_, "exchange", "the lane is not in its own mask " + std::to_string(mask));
  for (uint32_t lane = 0; lane < kWarp; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    const std::string name = "lane " + std::to_string(lane) + " of the mask ";
    if (first + lane >= threads_.size()) stop(at_, "exchange", name + "does not exist");
    const Thread& other = threads_[first + lane];
    if (other.state == Thread::kExited) stop(at_, "exchange", name + "has exited");
    if (other.state != Thread::kAtExchange || other.next != threads_[t].next)
      stop(at_, "exchange", name + "is elsewhere");
    if (u32(registers_of(first + lane)[at_->from[3]]) != mask) stop(at_, "exchange", name + "has another mask");
  }
}

// Exchanges values between the lanes that wait for it. All lanes in the mask of an exchange must take part in it.
void Machine::exchange(uint32_t first) {
  const auto end = std::min(first + kWarp, static_cast<uint32_t>(threads_.size()));
  const Thread& one = threads_[first];
  std::array<uint64_t, kWarp> values{};
  uint32_t alike = 0;  // number of lanes that wait at the same instruction, with a mask of all lanes
  for (uint32_t t = first; t < end; ++t) {
    if (threads_[t].state != Thread::kAtExchange) continue;
    at_ = &kernel_->code[threads_[t].next - 1];
    values[t - first] = registers_of(t)[at_->from[0]];
    alike += threads_[t].next == one.next && u32(registers_of(t)[at_->from[3]]) == kAllLanes ? 1 : 0;
  }
  for (uint32_t t = first; t < end; ++t) {
    if (threads_[t].state != Thread::kAtExchange) continue;
    at_ = &kernel_->code[threads_[t].next - 1];
    clock_.thread = static_cast<uint16_t>(t);
    uint64_t* const registers = registers_of(t);
    const uint32_t lane = t - first;
    const uint32_t mask = u32(registers[at_->from[3]]);
    if (alike < kWarp) check_mask(t, first, mask);
    // PTX's limit has the last lane in bits 0 to 4, and in bits 8 to 12 a mask of the bits that all lanes of a part of
    // the warp have in common.
    const uint32_t limit = u32(registers[at_->from[2]]);
    const uint32_t part = limit >> 8 & 31;
    const uint32_t last = (lane & part) | (limit & 31 & ~part);
    const uint32_t wanted = lane ^ (u32(registers[at_->from[1]]) & 31);
    const uint32_t other = wanted <= last ? wanted : lane;
    if ((mask >> other & 1) == 0) stop(at_, "exchange", "lane " + std::to_string(other) + " is not in the mask");
    registers[at_->to[0]] = u32(values[other]);
  }
  for (uint32_t t = first; t < end; ++t) {
    if (threads_[t].state == Thread::kAtExchange) threads_[t].state = Thread::kReady;
  }
}

unsigned char* Machine::access(const Instruction* at, uint64_t address) {
  at_ = at;
  const Access access{address, uint32_t{at->size} * at->count, at->kind == Kind::kStore, at->is_non_coherent};
  unsigned char* const bytes = at->is_shared
                                   ? shared_->access(access, int64_t{u32(address)} - kSharedBase, clock_, to_faults_)
                                   : memory_.access(access, clock_);
  if (bytes == nullptr) throw Stopped{};
  if (costs != nullptr) {
    const auto index = static_cast<size_t>(at - kernel_->code.data());
    costs->count(clock_.thread, index, address, access.bytes, at->is_shared, access.is_store);
  }
  return bytes;
}

// Runs a thread until it waits or exits.
void Machine::run_thread(uint32_t index) {
  clock_.thread = static_cast<uint16_t>(index);
  uint64_t* const r = registers_of(index);
  const Instruction* const code = kernel_->code.data();
  branches_ = 0;
  const Instruction* const at = run_from(*this, code + threads_[index].next, r);
  if (at->kind == Kind::kCompute) stop(at, "division by zero", "");
  threads_[index].next = static_cast<uint32_t>(at - code) + 1;
  threads_[index].state = at->kind == Kind::kExchange  ? Thread::kAtExchange
                          : at->kind == Kind::kBarrier ? Thread::kAtBarrier
                                                       : Thread::kExited;
}

// The instructions that do more than compute a value from registers.
struct Machine::Instructions {
  static uint64_t low_half(uint64_t value, uint32_t bits) { return value & ((uint64_t{1} << bits) - 1); }

  static const Instruction* pack(Machine& machine, const Instruction* at, uint64_t* r) {
    const uint32_t bits = at->size * 8;
    r[at->to[0]] = low_half(r[at->from[0]], bits) | low_half(r[at->from[1]], bits) << bits;
    return run_from(machine, at + 1, r);
  }

  static const Instruction* unpack(Machine& machine, const Instruction* at, uint64_t* r) {
    const uint32_t bits = at->size * 8;
    const uint64_t whole = r[at->from[0]];
    r[at->to[0]] = low_half(whole, bits);
    r[at->to[1]] = low_half(whole >> bits, bits);
    return run_from(machine, at + 1, r);
  }

  template <typename Value>
  static uint64_t value_at(const unsigned char* bytes) {
    Value value;
    std::memcpy(&value, bytes, sizeof(value));
    return value;
  }

  template <typename Value>
  static const Instruction* load_parameter(Machine& machine, const Instruction* at, uint64_t* r) {
    r[at->to[0]] = value_at<Value>(machine.parameters_.data() + at->offset);
    return run_from(machine, at + 1, r);
  }

  template <typename Value>
  static const Instruction* load(Machine& machine, const Instruction* at, uint64_t* r) {
    const unsigned char* const bytes = machine.access(at, r[at->from[0]] + from_signed(at->offset));
    for (size_t i = 0; i < at->count; ++i) r[at->to[i]] = value_at<Value>(bytes + i * sizeof(Value));
    return run_from(machine, at + 1, r);
  }

  template <typename Value>
  static const Instruction* store(Machine& machine, const Instruction* at, uint64_t* r) {
    unsigned char* const bytes = machine.access(at, r[at->from[0]] + from_signed(at->offset));
    for (size_t i = 0; i < at->count; ++i) std::memcpy(bytes + i * sizeof(Value), &r[at->to[i]], sizeof(Value));
    return run_from(machine, at + 1, r);
  }

  static const Instruction* branch(Machine& machine, const Instruction* at, uint64_t* r) {
    if ((r[at->from[0]] & 1) != at->condition) return run_from(machine, at + 1, r);
    if (++machine.branches_ > kMostBranches)
      machine.stop(at, "endless", "the thread has branched 20 million times without a wait");
    return run_from(machine, machine.kernel_->code.data() + at->offset, r);
  }

  static const Instruction* wait(Machine&, const Instruction* at, uint64_t*) { return at; }
};

// Returns the function that runs an instruction of a kind other than Kind::kCompute.
Run Machine::run_of(const Instruction& at) {
  switch (at.size) {
    case 1: return run_of<uint8_t>(at.kind);
    case 2: return run_of<uint16_t>(at.kind);
    case 4: return run_of<uint32_t>(at.kind);
    default: return run_of<uint64_t>(at.kind);
  }
}

// Value: the type of a value in memory.
template <typename Value>
Run Machine::run_of(Kind kind) {
  switch (kind) {
    case Kind::kPack: return Instructions::pack;
    case Kind::kUnpack: return Instructions::unpack;
    case Kind::kLoadParameter: return Instructions::load_parameter<Value>;
    case Kind::kLoad: return Instructions::load<Value>;
    case Kind::kStore: return Instructions::store<Value>;
    case Kind::kBranch: return Instructions::branch;
    default: return Instructions::wait;
  }
}

}  // namespace gpu_emulator
