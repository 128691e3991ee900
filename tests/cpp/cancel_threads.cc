// Cancels calls from other threads: before the calls start, while they run, and after they end. If every call behaves
// as expected, exits with 0. Otherwise, prints the first deviation.
//
//   cancel_threads BUNDLE ONNXRUNTIME MOMENTS
//
// Cancels MOMENTS calls at random moments, and prints how many of them were cancelled and how many returned results.
// At the same time, other calls run that are not cancelled. The program also prints how many of those other calls
// returned the right results, and how many there were.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "loaded_engine.h"

namespace {

using Answer = vmoe::Result<std::vector<float>>;
using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr int kThreads = 4;
constexpr float kUntouched = -12345.0F;

void expect(bool is_right, const char* what) {
  if (is_right) return;
  std::printf("wrong: %s\n", what);
  std::exit(1);
}

vmoe::Cancellation make_cancellation() {
  auto cancellation = vmoe::Cancellation::create();
  expect(cancellation.ok(), "a cancellation is created");
  return *std::move(cancellation);
}

// Calls an engine on one batch, and stores the expected results.
class Calls {
 public:
  Calls(const vmoe::Engine& engine, int64_t count) : engine_(engine), noise_(engine.info(), count) {
    auto answer = run();
    expect(answer.ok(), "a call that nobody cancels succeeds");
    expected_ = *answer;
    seconds_ = std::numeric_limits<double>::infinity();
    for (int i = 0; i < 3; ++i) {
      const auto start = Clock::now();
      expect(is_right(run()), "a call gives its bits again");
      seconds_ = std::min(seconds_, Seconds(Clock::now() - start).count());
    }
  }

  bool is_right(const Answer& answer) const { return answer && *answer == expected_; }
  Answer run() const { return engine_.run(noise_.images); }
  Answer run(const vmoe::Cancellation& cancellation) const { return engine_.run(noise_.images, {}, cancellation); }
  double seconds() const { return seconds_; }  // the shortest measured call time

  // Runs a call and returns whether it was cancelled. A cancelled call must leave the output unchanged. Any other call
  // must write the right results.
  bool is_cancelled(const vmoe::Cancellation& cancellation) const {
    std::vector<float> output(expected_.size(), kUntouched);
    const auto written = engine_.run(noise_.images, {}, cancellation, output.data(), output.size());
    if (written) {
      expect(output == expected_, "a call that was cancelled too late gives its results");
      return false;
    }
    expect(written.error().code == VMOE_CANCELLED, written.error().message.c_str());
    expect(written.error().message == "the call was cancelled", written.error().message.c_str());
    expect(std::count(output.begin(), output.end(), kUntouched) == static_cast<ptrdiff_t>(output.size()),
           "the output of a cancelled call is untouched");
    return true;
  }

 private:
  const vmoe::Engine& engine_;
  Noise noise_;
  std::vector<float> expected_;
  double seconds_ = 0;
};

void cancel_before_and_after(const Calls& calls) {
  const vmoe::Cancellation cancellation = make_cancellation();
  expect(calls.is_right(calls.run(cancellation)), "a call that could be cancelled gives its results");
  expect(calls.is_right(calls.run(cancellation)), "a cancellation serves one call after another");
  const Answer before = calls.run(cancellation);
  cancellation.cancel();
  expect(calls.is_right(before), "results stay when the call is cancelled afterwards");
  expect(calls.is_cancelled(cancellation) && calls.is_cancelled(cancellation), "no call begins that is cancelled");
  cancellation.cancel();
  expect(calls.is_right(calls.run()), "other calls go on");
}

// Runs calls on several threads until a single cancellation ends all of them.
void cancel_many(const Calls& calls) {
  const vmoe::Cancellation cancellation = make_cancellation();
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      while (!calls.is_cancelled(cancellation)) continue;
    });
  }
  std::this_thread::sleep_for(Seconds(2.5 * kThreads * calls.seconds()));
  cancellation.cancel();
  for (std::thread& thread : threads) thread.join();
}

// Cancels `moments` calls. Each is cancelled at a random time between 0 and twice the time that a call takes. Returns
// the number of cancelled calls.
int cancel_at_random(const Calls& calls, int moments) {
  std::mt19937 random(2);
  std::uniform_real_distribution<double> moment(0, 2 * calls.seconds());
  int cancelled = 0;
  for (int i = 0; i < moments; ++i) {
    const vmoe::Cancellation cancellation = make_cancellation();
    std::thread canceller([&, wait = Seconds(moment(random))] {
      std::this_thread::sleep_for(wait);
      cancellation.cancel();
    });
    cancelled += calls.is_cancelled(cancellation) ? 1 : 0;
    canceller.join();
  }
  return cancelled;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const int moments = std::atoi(argv[3]);
  const auto engine = load_engine(argv);
  expect(engine.ok(), "the bundle is loaded");
  const int64_t group = engine->info().batch_multiple;
  const Calls calls(*engine, (16 + group - 1) / group * group);
  cancel_before_and_after(calls);
  cancel_many(calls);

  std::atomic<bool> stops{false};
  int asked = 0, equal = 0;
  std::thread beside([&] {
    while (!stops) {
      ++asked;
      equal += calls.is_right(calls.run()) ? 1 : 0;
    }
  });
  const int cancelled = cancel_at_random(calls, moments);
  stops = true;
  beside.join();
  std::printf("cancelled %d done %d equal %d of %d\n", cancelled, moments - cancelled, equal, asked);
  return equal == asked ? 0 : 1;
}
