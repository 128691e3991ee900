// Tests a batcher whose thread runs out of memory: the first allocation for one call fails, then the second allocation
// for another call, and so on. Only allocations by the header itself fail, because in some places ONNX Runtime ends the
// process. Every request must have exactly one answer, and the call after it must succeed. A C function for which every
// allocation fails must return a status. Exits with 0 if all this holds.
//
//   sdk_batcher_memory BUNDLE ONNXRUNTIME
//
// Prints "right N memory N other N", the number of answers of each kind.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <new>
#include <string>
#include <vector>

#include "loaded_engine.h"
#include "vmoe/batcher.hpp"

extern "C" const char __executable_start, etext;  // the range of the program's code, defined by the linker

namespace {

constexpr int kRequests = 3, kMostAllocations = 100;
constexpr int kPlenty = -1;
thread_local int left = kPlenty;  // allocations of this thread until one fails
thread_local bool none = false;   // if true, every allocation of this thread fails, also in the library

void* allocate(size_t size, const void* caller) {
  const bool own = caller >= &__executable_start && caller < &etext;
  if (none || (own && left >= 0 && left-- == 0)) throw std::bad_alloc();
  void* memory = std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

// Not inlined, so that the return address is in the code that allocates, and because a compiler that sees both sides
// warns about new and free.
#define NOT_INLINED __attribute__((noinline))
NOT_INLINED void* operator new(size_t size) { return allocate(size, __builtin_return_address(0)); }
NOT_INLINED void* operator new[](size_t size) { return allocate(size, __builtin_return_address(0)); }
NOT_INLINED void operator delete(void* memory) noexcept { std::free(memory); }
NOT_INLINED void operator delete[](void* memory) noexcept { std::free(memory); }
NOT_INLINED void operator delete(void* memory, size_t) noexcept { std::free(memory); }
NOT_INLINED void operator delete[](void* memory, size_t) noexcept { std::free(memory); }

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  none = true;
  vmoe_status* const status = vmoe_engine_load("absent.vmoe", nullptr, nullptr);
  const vmoe_code code = vmoe_status_code(status);
  vmoe_status_free(status);
  none = false;
  if (code != VMOE_MEMORY_ERROR) return 4;
  const auto engine = load_engine(argv);
  if (!engine) return 2;
  auto batcher = vmoe::Batcher::start(*engine, {});
  if (!batcher) return 2;
  const vmoe::Info& info = engine->info();
  const Noise noise(info, 1);
  const std::string setting = "c1.05-k2-vanilla";

  std::atomic<int> right{0}, memory{0}, other{0};
  for (int allocations = 0; allocations < kMostAllocations; ++allocations) {
    std::promise<void> all;
    std::atomic<int> open{kRequests};
    // Submits the requests of the next call on the batcher's thread, so that one call takes them all.
    const auto submit = [&](const vmoe::Result<vmoe::Answer>&) {
      for (int request = 0; request < kRequests; ++request) {
        auto ticket = batcher->submit(noise.images, setting, [&](const vmoe::Result<vmoe::Answer>& answer) {
          left = kPlenty;
          auto& count = answer ? right : answer.error().code == VMOE_MEMORY_ERROR ? memory : other;
          ++count;
          if (--open == 0) all.set_value();
        });
        if (!ticket) std::abort();
      }
      left = allocations;
    };
    if (!batcher->submit(noise.images, "", submit)) return 2;
    all.get_future().wait();
    const auto next = batcher->submit(noise.images, setting)->wait();
    if (!next || next->output.size() != static_cast<size_t>(info.output_size)) return 3;
  }
  std::printf("right %d memory %d other %d\n", right.load(), memory.load(), other.load());
  return 0;
}
