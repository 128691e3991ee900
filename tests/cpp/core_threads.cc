// Runs the layers without ONNX Runtime. There are 8 concurrent callers. Each caller has its own workers, but the
// callers share weights of every type. Results must have the same bits as on a single thread. All code is compiled
// with the thread sanitizer, so the sanitizer sees every memory access.
//
//   core_threads [race]
//
// With `race`, the callers also write one variable without a lock. A working sanitizer must report this race.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <thread>

#include "core_layers.h"

namespace {

constexpr size_t kCallers = 8, kWorkers = 3, kRounds = 6;

// Returns a runner that starts new threads for each parallel loop.
TaskRunner threads_runner() {
  return {nullptr, [](void*, size_t count, TaskRunner::Task task, void* context) {
            std::atomic<size_t> next{0};
            const auto work = [&] {
              for (size_t i = next++; i < count; i = next++) task(context, i);
            };
            std::vector<std::thread> workers;
            workers.reserve(kWorkers);
            for (size_t i = 0; i < kWorkers; ++i) workers.emplace_back(work);
            for (std::thread& worker : workers) worker.join();
          }};
}

bool same_bits(const std::vector<Answer>& one, const std::vector<Answer>& other) {
  return std::equal(one.begin(), one.end(), other.begin(), other.end(), [](const Answer& a, const Answer& b) {
    return a.values.size() == b.values.size() &&
           std::memcmp(a.values.data(), b.values.data(), a.values.size() * sizeof(float)) == 0;
  });
}

}  // namespace

int main(int argc, char** argv) {
  const bool race = argc > 1 && std::strcmp(argv[1], "race") == 0;
  if (!vmoe::chosen_cpu_path().error.empty()) return 2;
  const Kernels& kernels = vmoe::kernels_for(vmoe::chosen_cpu_path().path);
  std::atomic<int> equal{0};
  int unguarded = 0;
  std::vector<std::thread> callers;
  callers.reserve(kCallers);
  for (unsigned caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      for (unsigned round = 0; round < kRounds; ++round) {
        const ElementType type = kTypes[(caller / 4 + round) % std::size(kTypes)];
        // In each round, callers 0 to 3 have the same sizes as each other, and so do callers 4 to 7. Callers with the
        // same sizes share weights.
        const unsigned number = 10 + caller / 4 * 3 + round;
        const auto alone = Layers(kernels, type, number, vmoe::serial_runner()).compute();
        equal += same_bits(alone, Layers(kernels, type, number, threads_runner()).compute()) ? 1 : 0;
        if (race) ++unguarded;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  std::printf("equal %d of %zu\n", equal.load() + 0 * unguarded, kCallers * kRounds);
  return equal == static_cast<int>(kCallers * kRounds) ? 0 : 1;
}
