// Loads and runs a bundle on 4 threads while the log callback is replaced repeatedly. Each callback writes to its own
// listener without a lock. As soon as vmoe_set_log has replaced a callback and returned, that callback's listener is
// freed. Results must have the same bits as on a single thread. Exits with 0 if all results are right.
//
//   log_threads BUNDLE ONNXRUNTIME REPLACEMENTS
//
// Prints five numbers: right results, all results, callbacks that were set, callbacks that received a message, and
// messages below the callback's level.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "loaded_engine.h"

namespace {

constexpr int kThreads = 4;

struct Listener {
  vmoe_log_level level;
  std::atomic<int> messages{0}, below{0};
  std::string alive = "a text long enough to lie on the heap, which a callback that comes too late would read";
};

void hear(Listener& listener, vmoe_log_level level, const std::string& message) {
  if (level < listener.level || message.empty() || listener.alive[0] != 'a') ++listener.below;
  ++listener.messages;
}

vmoe::Result<std::vector<float>> ask(char** argv) {
  const auto engine = load_engine(argv, 1, false);
  if (!engine) return engine.error();
  return engine->run(Noise(engine->info(), engine->info().batch_multiple).images);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const int replacements = std::atoi(argv[3]);
  const auto expected = ask(argv);
  if (!expected) {
    std::printf("%s\n", expected.error().message.c_str());
    return 2;
  }
  std::atomic<bool> stops{false};
  std::atomic<int> asked{0}, equal{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      while (!stops) {
        ++asked;
        const auto found = ask(argv);
        if (found && *found == *expected) ++equal;
      }
    });
  }
  int set = 0, heard = 0, below = 0;
  std::unique_ptr<Listener> listener;
  while (set < replacements) {
    auto next = std::make_unique<Listener>();
    next->level = set % 2 == 0 ? VMOE_LOG_DEBUG : VMOE_LOG_INFO;
    const auto callback = [to = next.get()](vmoe_log_level level, const std::string& message) {
      hear(*to, level, message);
    };
    if (!vmoe::set_log(next->level, callback)) return 2;
    ++set;
    listener = std::move(next);  // frees the previous one
    while (set < replacements && listener->messages == 0) std::this_thread::yield();
    heard += listener->messages != 0 ? 1 : 0;
    below += listener->below;
  }
  stops = true;
  for (std::thread& thread : threads) thread.join();
  std::printf("equal %d of %d callbacks %d heard %d below %d\n", equal.load(), asked.load(), set, heard, below);
  return equal == asked && heard + 1 == set && below == 0 ? 0 : 1;
}
