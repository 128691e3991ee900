// 8 threads that find, load and give back sessions under a few keys. While one is held, nobody loads another under its
// key. Prints how many times that was so, of how many; exit code 0 where always.
#include <atomic>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "sdk/shared_sessions.h"

namespace {

constexpr int kThreads = 8, kRounds = 500, kKeys = 3;

// No session is needed to share one.
std::shared_ptr<vmoe::sdk::Session> stand_in() {
  auto held = std::make_shared<char>();
  return {held, reinterpret_cast<vmoe::sdk::Session*>(held.get())};
}

}  // namespace

int main() {
  std::atomic<int> equal{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&equal, i] {
      for (int round = 0; round < kRounds; ++round) {
        const std::string key = "key " + std::to_string((i + round) % kKeys);
        const auto session = vmoe::sdk::find_or_load_session(key, stand_in);
        if (vmoe::sdk::find_or_load_session(key, stand_in) == session) ++equal;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::printf("equal %d of %d\n", equal.load(), kThreads * kRounds);
  return equal == kThreads * kRounds ? 0 : 1;
}
