// 8 threads on one engine, each with a profile of its own, while other engines of the same bundle come and go. Answers
// must be those of a single thread, bit for bit.
//
//   engine_threads BUNDLE ONNXRUNTIME ROUNDS [race]
//
// With `race` the threads also write one variable without a lock: what a sanitizer that works must report.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "vmoe/engine.hpp"

namespace {

constexpr size_t kThreads = 8;

std::vector<uint8_t> MakePixels(size_t size, unsigned seed) {
  std::vector<uint8_t> pixels(size);
  for (uint8_t& pixel : pixels) {
    seed = seed * 1664525u + 1013904223u;
    pixel = static_cast<uint8_t>(seed >> 24);
  }
  return pixels;
}

vmoe::Result<vmoe::Engine> Load(const char* bundle, const char* runtime) {
  vmoe::LoadOptions options;
  options.onnxruntime = runtime;
  options.threads = 2;
  return vmoe::Engine::load(bundle, options);
}

bool Same(const vmoe::Result<std::vector<float>>& output, const std::vector<float>& expected) {
  return output && output->size() == expected.size() &&
         std::memcmp(output->data(), expected.data(), expected.size() * sizeof(float)) == 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  const int rounds = std::atoi(argv[3]);
  const bool race = argc > 4 && std::strcmp(argv[4], "race") == 0;
  const auto engine = Load(argv[1], argv[2]);
  if (!engine) {
    std::printf("%s\n", engine.error().message.c_str());
    return 2;
  }
  const vmoe::Info& info = engine->info();
  const int64_t count = 2 * info.batch_multiple;
  const auto pixels = MakePixels(static_cast<size_t>(count * info.height * info.width * info.channels), 1);
  const auto images = vmoe::Images::uint8(pixels.data(), count, info.height, info.width, info.channels);
  std::vector<vmoe::Setting> settings(kThreads);
  std::vector<std::vector<float>> expected;
  for (size_t i = 0; i < kThreads; ++i) {
    settings[i].profile = engine->profiles()[i % engine->profiles().size()].name;
    settings[i].bpr = i < kThreads / 2;
    const auto output = engine->run(images, settings[i]);
    if (!output) return 2;
    expected.push_back(*output);
  }

  std::atomic<int> equal{0}, loads{0};
  int unguarded = 0;
  std::vector<std::thread> threads;
  for (size_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < rounds; ++round) {
        if (Same(engine->run(images, settings[i]), expected[i])) ++equal;
        if (race) ++unguarded;
      }
      const auto own = Load(argv[1], argv[2]);
      if (own && ++loads > 0 && Same(own->run(images, settings[i]), expected[i])) ++equal;
    });
  }
  for (std::thread& thread : threads) thread.join();
  const int calls = static_cast<int>(kThreads) * (rounds + 1);
  std::printf("equal %d of %d loads %d %s\n", equal.load() + 0 * unguarded, calls, loads.load(), info.runtime.c_str());
  return equal == calls ? 0 : 1;
}
