// Tests a batcher whose thread fails to allocate memory. In the first call, the first allocation fails; in the second
// call, the second allocation fails, and so on. There are two series of such calls. In one series, allocations fail for
// lack of memory; in the other, they fail with another error. Only allocations by the code of this program fail, which
// includes the SDK's C++ headers. The libraries' allocations succeed, because ONNX Runtime ends the process after some
// failed allocations.
//
// Every request must get exactly one reply, an error must state its cause, and the next call must succeed. A C function
// must return a status even if every allocation fails. Exits with 0 if all of this is true.
//
//   sdk_batcher_memory BUNDLE ONNXRUNTIME
//
// Prints "right N memory N runtime N other N spared N": the number of replies of each kind. "spared" is the number of
// right results that came after an error in the same call.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "loaded_engine.h"
#include "vmoe/batcher.hpp"

extern "C" const char __executable_start, etext;  // bounds of the program's own code, defined by the linker

namespace {

constexpr int kRequests = 3, kMostAllocations = 100;
constexpr int kPlenty = -1;
thread_local int left = kPlenty;  // how many of this thread's own allocations succeed before one fails
thread_local bool none = false;   // if true, all allocations on this thread fail, including those in the library
bool lacks_memory = true;         // whether failures report a lack of memory, not another error
constexpr char kOtherFailure[] = "no allocation today";

void* allocate(size_t size, const void* caller) {
  const bool own = caller >= &__executable_start && caller < &etext;
  if (none) throw std::bad_alloc();
  if (own && left >= 0 && left-- == 0) {
    if (lacks_memory) throw std::bad_alloc();
    throw std::runtime_error(kOtherFailure);
  }
  void* memory = std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

// These functions are not inlined, for two reasons. Their return address must be in the code that allocates. And if the
// compiler saw their bodies, it would warn that memory from new is passed to free.
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

  std::atomic<int> right{0}, memory{0}, runtime{0}, other{0}, spared{0};
  for (int round = 0; round < 2 * kMostAllocations; ++round) {
    lacks_memory = round < kMostAllocations;
    std::promise<void> all;
    std::atomic<int> open{kRequests};
    std::atomic<bool> has_failed{false};
    // Submit the next call's requests from the batcher's thread, so that they are all in the same call.
    const auto submit = [&](const vmoe::Result<vmoe::Answer>&) {
      for (int request = 0; request < kRequests; ++request) {
        auto ticket = batcher->submit(noise.images, setting, [&](const vmoe::Result<vmoe::Answer>& answer) {
          left = kPlenty;
          if (answer) {
            ++right;
            if (has_failed) ++spared;
          } else {
            const vmoe::Error& error = answer.error();
            const bool is_memory = error.code == VMOE_MEMORY_ERROR && error.message == "out of memory";
            const bool is_runtime = error.code == VMOE_RUNTIME_ERROR && error.message == kOtherFailure;
            ++(is_memory && lacks_memory ? memory : is_runtime && !lacks_memory ? runtime : other);
            has_failed = true;
          }
          if (--open == 0) all.set_value();
        });
        if (!ticket) std::abort();
      }
      left = round % kMostAllocations;
    };
    if (!batcher->submit(noise.images, "", submit)) return 2;
    all.get_future().wait();
    const auto next = batcher->submit(noise.images, setting)->wait();
    if (!next || next->output.size() != static_cast<size_t>(info.output_size)) return 3;
  }
  std::printf("right %d memory %d runtime %d other %d spared %d\n", right.load(), memory.load(), runtime.load(),
              other.load(), spared.load());
  return 0;
}
