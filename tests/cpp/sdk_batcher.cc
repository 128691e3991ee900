// Tests a batcher with 8 threads. They submit requests, and cancel or drop some of them. Some requests specify a
// setting. For the others, the batcher chooses it. The queue is so short that it sometimes fills up. At the end, the
// batcher is closed, with or without draining. Every request must get exactly one reply. The outputs in a reply must
// have the same bits as if the engine ran only that request's images. Exits with 0 if this is true for every request.
//
//   sdk_batcher BUNDLE ONNXRUNTIME ROUNDS
//
// Prints "right N cancelled N busy N closed N batch_size N", where batch_size is the size of the largest batch. Then
// makes invalid requests and starts batchers with invalid options, and prints the code and message of each error, one
// per line.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <future>
#include <limits>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "loaded_engine.h"
#include "vmoe/batcher.hpp"
#include "vmoe/levels.hpp"

namespace {

constexpr int kThreads = 8;
constexpr int64_t kMostImages = 8;
const std::vector<std::string> kSettings = {"", "c0.3-k1", "", "c1.05-k2-vanilla"};

struct Counts {
  std::atomic<int> right{0}, wrong{0}, cancelled{0}, busy{0}, closed{0}, other{0};
  std::atomic<int64_t> batch_size{0};
};

struct Model {
  const vmoe::Engine& engine;
  std::vector<uint8_t> pixels;  // pixels of kMostImages images

  vmoe::Images images(int64_t first, int64_t count) const {
    const vmoe::Info& info = engine.info();
    const int64_t size = info.height * info.width * info.channels;
    return vmoe::Images::uint8(pixels.data() + first * size, count, info.height, info.width, info.channels);
  }
};

void count_answer(const Model& model, const vmoe::Images& images, const vmoe::Result<vmoe::Answer>& answer,
                  Counts& counts) {
  if (!answer) {
    auto& count = answer.error().code == VMOE_CANCELLED ? counts.cancelled
                  : answer.error().code == VMOE_BUSY    ? counts.busy
                  : answer.error().code == VMOE_CLOSED  ? counts.closed
                                                        : counts.other;
    ++count;
    return;
  }
  vmoe::Setting setting;
  setting.profile = answer->setting;
  const auto alone = model.engine.run(images, setting);
  const bool same = alone && alone->size() == answer->output.size() &&
                    std::memcmp(alone->data(), answer->output.data(), alone->size() * sizeof(float)) == 0;
  ++(same ? counts.right : counts.wrong);
  int64_t most = counts.batch_size;
  while (answer->batch_size > most && !counts.batch_size.compare_exchange_weak(most, answer->batch_size)) {
  }
}

void ask(const Model& model, vmoe::Batcher& batcher, int thread, int rounds, Counts& counts) {
  for (int round = 0; round < rounds; ++round) {
    const std::string& setting = kSettings[static_cast<size_t>(thread + round) % kSettings.size()];
    // Submit two requests at once, and cancel or drop some of them.
    const auto one = model.images(thread, 1), many = model.images(0, 1 + round % kMostImages);
    auto first = batcher.submit(one, setting), second = batcher.submit(many, setting);
    if (batcher.load().calls < 0) ++counts.other;  // tests reading values that the batcher's thread writes
    if (first && round % 5 == 0) first->cancel();
    if (second && round % 7 == 0)
      (void)vmoe::Pending(std::move(*second));
    else
      count_answer(model, many, second ? second->wait() : second.error(), counts);
    count_answer(model, one, first ? first->wait() : first.error(), counts);
  }
}

vmoe::BatcherOptions make_options(const vmoe::TimedLevels& timed) {
  vmoe::BatcherOptions options;
  options.most_images = kMostImages;
  options.most_waiting = 24;
  options.levels = timed.names;
  options.plan.levels = timed.levels;
  options.plan.target = 0.05;
  return options;
}

// Closes the batcher in a request's callback. That request must get its result, and a waiting request must get an
// error, without a deadlock.
bool closes_in_a_callback(const Model& model) {
  auto batcher = vmoe::Batcher::start(model.engine, {});
  if (!batcher) return false;
  const auto image = model.images(0, 1);
  std::promise<void> done;
  std::atomic<int> answered{0}, closed{0};
  const auto count = [&](const vmoe::Result<vmoe::Answer>& answer) { ++(answer ? answered : closed); };
  const auto close = [&](const vmoe::Result<vmoe::Answer>& answer) {
    count(answer);
    if (!batcher->submit(image, "", count)) std::abort();
    batcher->close(false);
    if (batcher->submit(image, "", count)) std::abort();
    done.set_value();
  };
  if (!batcher->submit(image, "", close)) return false;
  done.get_future().wait();
  batcher->close();
  return answered == 1 && closed == 1;
}

// Checks that a callback that throws an exception does not change the results of other requests in the same call.
bool outlives_a_callback_that_throws(const Model& model) {
  auto batcher = vmoe::Batcher::start(model.engine, {});
  if (!batcher) return false;
  const auto image = model.images(0, 1);
  std::promise<void> done;
  int answered = 0;  // on the batcher's thread
  // Submit from a callback. Callbacks run on the batcher's thread, so all three requests are in the same call.
  const auto submit_three = [&](const vmoe::Result<vmoe::Answer>&) {
    for (int request = 0; request < 3; ++request) {
      const auto ticket = batcher->submit(image, "", [&, request](const vmoe::Result<vmoe::Answer>& answer) {
        if (answer && answer->batch_size == 3) ++answered;
        if (request == 2) done.set_value();
        throw std::runtime_error("a callback's own mistake");
      });
      if (!ticket) std::abort();
    }
  };
  if (!batcher->submit(image, "", submit_three)) return false;
  done.get_future().wait();
  batcher->close();
  return answered == 3;
}

// Checks that the batcher counts profiles together, as "other", if they are neither in the bundle nor among the levels
// `timed`.
bool counts_others_together(const Model& model, const vmoe::TimedLevels& timed) {
  auto batcher = vmoe::Batcher::start(model.engine, make_options(timed));
  if (!batcher) return false;
  const auto image = model.images(0, 1);
  for (int ratio = 1; ratio <= 20; ++ratio) {
    const auto answer = batcher->submit(image, "c0.4" + std::to_string(ratio) + "-k1")->wait();
    if (!answer) return false;
  }
  if (!batcher->submit(image, timed.names[0])->wait() || !batcher->submit(image, "c0.3-k1")->wait()) return false;
  batcher->close();
  return batcher->load().served == std::map<std::string, int64_t>{{"c0.3-k1", 1}, {"other", 20}, {timed.names[0], 1}};
}

template <typename Result>
void print_refusal(const Result& result) {
  if (!result) std::printf("%d %s\n", result.error().code, result.error().message.c_str());
}

void print_refusals(const Model& model, const vmoe::TimedLevels& timed) {
  const auto start = [&](auto change) {
    auto options = make_options(timed);
    change(options);
    print_refusal(vmoe::Batcher::start(model.engine, options));
  };
  start([](auto& options) { options.most_images = 0; });
  start([](auto& options) { options.most_waiting = kMostImages - 1; });
  start([](auto& options) { options.levels.pop_back(); });
  start([](auto& options) { options.levels[0] = "fastest"; });
  start([](auto& options) { options.plan.target = 0; });
  start([](auto& options) {
    options = {};
    options.most_images = options.most_waiting = std::numeric_limits<int64_t>::max();
  });
  print_refusal(vmoe::time_levels(model.engine, {"fastest"}, 1));
  print_refusal(vmoe::time_levels(model.engine, timed.names, 0));

  auto batcher = vmoe::Batcher::start(model.engine, make_options(timed));
  auto odd = model.images(0, 1);
  ++odd.width;
  print_refusal(batcher->submit(model.images(0, 0)));
  print_refusal(batcher->submit(model.images(0, kMostImages + 1)));
  print_refusal(batcher->submit(odd));
  std::vector<float> unscaled(model.pixels.begin(), model.pixels.end());
  print_refusal(batcher->submit({unscaled.data(), VMOE_FLOAT32, 1, odd.height, odd.width - 1, odd.channels}));
  print_refusal(batcher->submit(model.images(0, 1), "fastest"));
  print_refusal(batcher->submit(model.images(0, 1), std::string("c0.3-k1\0-r9", 11)));
  print_refusal(batcher->submit(model.images(0, 1), "", nullptr));
  batcher->close();
  print_refusal(batcher->submit(model.images(0, 1)));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const auto engine = load_engine(argv);
  if (!engine) {
    std::printf("%s\n", engine.error().message.c_str());
    return 2;
  }
  const Model model{*engine, Noise(engine->info(), kMostImages).pixels};
  const auto timed = vmoe::time_levels(*engine, {"c0.2-k1", "c1.05-k2"}, kMostImages);
  if (!timed) return 2;

  Counts counts;
  for (const bool drain : {true, false}) {
    auto batcher = vmoe::Batcher::start(*engine, make_options(*timed));
    if (!batcher) return 2;
    std::vector<std::thread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&, thread] { ask(model, *batcher, thread, std::atoi(argv[3]), counts); });
    }
    for (auto& thread : threads) thread.join();
    // Close a batcher that has waiting requests, and check their results, which the requests' callbacks store.
    const auto one = model.images(0, 1);
    std::vector<std::optional<vmoe::Result<vmoe::Answer>>> answers(20);
    int submitted = 0;
    for (auto& answer : answers) {
      auto ticket =
          batcher->submit(one, "", [&answer](vmoe::Result<vmoe::Answer> result) { answer = std::move(result); });
      if (ticket) ++submitted;
    }
    batcher->close(drain);
    for (const auto& answer : answers) {
      if (answer) --submitted, count_answer(model, one, *answer, counts);
    }
    const auto load = batcher->load();
    if (submitted != 0 || load.waiting != 0 || (drain && counts.closed != 0)) return 3;
  }
  if (!closes_in_a_callback(model)) return 4;
  if (!counts_others_together(model, *timed)) return 5;
  if (!outlives_a_callback_that_throws(model)) return 6;
  std::printf("right %d cancelled %d busy %d closed %d batch_size %d\n", counts.right.load(), counts.cancelled.load(),
              counts.busy.load(), counts.closed.load(), static_cast<int>(counts.batch_size.load()));
  print_refusals(model, *timed);
  return counts.wrong == 0 && counts.other == 0 ? 0 : 1;
}
