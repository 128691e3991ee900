// Runs 8 threads on one engine, each with its own setting. Meanwhile, each thread loads two more engines from the same
// bundle: it keeps one of them, and frees the other one halfway. Results must have the same bits as on a single
// thread. Exits with 0 if all results are right.
//
//   engine_threads BUNDLE ONNXRUNTIME ROUNDS [race]
//
// Prints four numbers: right results, all results, engines that the threads loaded, and profiles. Then prints the
// runtime. With `race`, the threads also write one variable without a lock. A working sanitizer must report this race.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "loaded_engine.h"

namespace {

constexpr int kThreads = 8;

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  const int rounds = std::atoi(argv[3]);
  const bool race = argc > 4 && std::strcmp(argv[4], "race") == 0;
  const auto shared = load_engine(argv, 2);
  if (!shared) {
    std::printf("%s\n", shared.error().message.c_str());
    return 2;
  }
  const vmoe::Info& info = shared->info();
  const int64_t count = std::max<int64_t>(info.batch_multiple, 2);
  const Noise noise(info, count);
  std::vector<vmoe::Setting> settings(kThreads);
  std::vector<std::vector<float>> expected;
  for (int i = 0; i < kThreads; ++i) {
    settings[i].profile = shared->profiles()[i % shared->profiles().size()].name;
    settings[i].bpr = i % 2 == 0;
    const auto output = shared->run(noise.images, settings[i]);
    if (!output) return 2;
    expected.push_back(*output);
  }

  std::atomic<int> equal{0}, loads{0};
  int unguarded = 0;
  const auto ask = [&](const vmoe::Engine& engine, int i) {
    const auto output = engine.run(noise.images, settings[i]);
    const bool same = output && output->size() == expected[i].size() &&
                      std::memcmp(output->data(), expected[i].data(), output->size() * sizeof(float)) == 0;
    if (same) ++equal;
  };
  const auto load = [&](int i) {
    auto engine = load_engine(argv, 2);
    if (engine) {
      ++loads;
      ask(*engine, i);
    }
    return engine;
  };
  std::vector<vmoe::Result<vmoe::Engine>> engines;
  for (int i = 0; i < kThreads; ++i) engines.emplace_back(vmoe::Error{});
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      if (race) ++unguarded;  // must come first, because the locks in the loading code would synchronize the threads
      engines[i] = load(i);
      for (int round = 0; round < rounds; ++round) {
        ask(*shared, i);
        if (round == rounds / 2) const auto goes = load(i);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const int asked = kThreads * (rounds + 2);
  std::printf("equal %d of %d loads %d profiles %zu runtime %s\n", equal.load() + 0 * unguarded, asked, loads.load(),
              shared->profiles().size(), info.runtime.c_str());
  return equal == asked ? 0 : 1;
}
