// Loads one bundle in 8 threads at once, then runs 8 settings on one engine from 8 threads, and compares every answer
// with that of a single thread, bit for bit. Exit code 0 where all agree.
//
//   sdk_threads BUNDLE ONNXRUNTIME
//
// Prints the number of profiles, the number of answers compared, and the resident memory in kB before the first engine,
// with one engine and with nine.
#include <atomic>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "vmoe/engine.hpp"

namespace {

constexpr int kThreads = 8;
constexpr int kRounds = 6;

long resident_kb() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmRSS:", 0) == 0) return std::stol(line.substr(6));
  }
  return -1;
}

template <typename Work>
void in_threads(const Work& work) {
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back([&work, i] { work(i); });
  for (auto& thread : threads) thread.join();
}

std::vector<uint8_t> make_pixels(size_t size, unsigned seed) {
  std::vector<uint8_t> pixels(size);
  for (auto& pixel : pixels) {
    seed = seed * 1664525u + 1013904223u;
    pixel = static_cast<uint8_t>(seed >> 24);
  }
  return pixels;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const long before = resident_kb();
  vmoe::LoadOptions options;
  options.onnxruntime = argv[2];
  options.threads = 1;
  const auto first = vmoe::Engine::load(argv[1], options);
  if (!first) {
    std::printf("%s\n", first.error().message.c_str());
    return 1;
  }
  const vmoe::Info& info = first->info();
  const int64_t count = 2 * info.batch_multiple;
  const auto pixels = make_pixels(static_cast<size_t>(count * info.height * info.width * info.channels), 1);
  const auto images = vmoe::Images::uint8(pixels.data(), count, info.height, info.width, info.channels);
  std::vector<vmoe::Setting> settings(kThreads);
  std::vector<std::vector<float>> expected;
  for (int i = 0; i < kThreads; ++i) {
    settings[i].profile = first->profiles()[i % first->profiles().size()].name;
    settings[i].bpr = i % 2 == 0;
    auto output = first->run(images, settings[i]);
    if (!output) return 1;
    expected.push_back(*output);
  }
  const long with_one = resident_kb();

  std::vector<vmoe::Result<vmoe::Engine>> engines;
  for (int i = 0; i < kThreads; ++i) engines.emplace_back(vmoe::Error{});
  in_threads([&](int i) { engines[i] = vmoe::Engine::load(argv[1], options); });
  std::atomic<int> equal{0}, wrong{0};
  const auto compare = [&](const vmoe::Engine& engine, int i) {
    const auto output = engine.run(images, settings[i]);
    const bool same = output && output->size() == expected[i].size() &&
                      std::memcmp(output->data(), expected[i].data(), output->size() * sizeof(float)) == 0;
    ++(same ? equal : wrong);
  };
  in_threads([&](int i) {
    for (int round = 0; round < kRounds; ++round) compare(*first, i);
    if (engines[i]) compare(*engines[i], i);
  });
  std::printf("%zu %d %ld %ld %ld\n", first->profiles().size(), equal.load(), before, with_one, resident_kb());
  return wrong == 0 && equal == kThreads * (kRounds + 1) ? 0 : 1;
}
