// On 8 threads, finds, loads and releases shared sessions under a few keys. While a thread holds a session, its second
// search for the same key must return that session. Prints how many of the second searches did so, and how many there
// were. Exits with 0 if the two numbers are equal.
#include <atomic>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "sdk/shared_sessions.h"

namespace {

constexpr int kThreads = 8, kRounds = 500, kKeys = 3;

// Returns a fake session. The program never uses the session itself, because it only tests sharing.
std::shared_ptr<vmoe::sdk::Session> fake_session() {
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
        const auto session = vmoe::sdk::find_or_load_session(key, fake_session);
        if (vmoe::sdk::find_or_load_session(key, fake_session) == session) ++equal;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::printf("equal %d of %d\n", equal.load(), kThreads * kRounds);
  return equal == kThreads * kRounds ? 0 : 1;
}
