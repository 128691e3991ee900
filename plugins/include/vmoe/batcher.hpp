// Micro-batches: requests from any number of threads wait in one bounded queue, and calls of one engine answer them
// together, at a setting that holds the latency. Header only; C++17.
//
//   auto batcher = vmoe::Batcher::start(*engine, {});
//   if (!batcher) return fail(batcher.error().message);
//   auto pending = batcher->submit(vmoe::Images::uint8(pixels.data(), 1, 224, 224, 3));
//   if (!pending) return busy(pending.error().message);
//   auto answer = pending->wait();
//
// Requests are served in the order they came. A call takes the first one and those behind it with the same setting and
// dtype; a request is never split. While a call runs, what comes is gathered for the next one: nobody waits for a
// timer.
#ifndef VMOE_BATCHER_HPP_
#define VMOE_BATCHER_HPP_

#include <chrono>
#include <exception>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "vmoe/batch_queue.hpp"
#include "vmoe/elastic.hpp"
#include "vmoe/engine.hpp"

namespace vmoe {

// A request that was submitted.
class Ticket {
 public:
  // Takes the request out of the queue: its callback gets VMOE_CANCELLED before this returns. False where a call runs
  // with it already, or it was answered.
  bool cancel() { return queue_->cancel(request_); }

 private:
  friend class Batcher;
  Ticket(std::shared_ptr<internal::BatchQueue> queue, internal::BatchRequestPointer request)
      : queue_(std::move(queue)), request_(std::move(request)) {}

  std::shared_ptr<internal::BatchQueue> queue_;
  internal::BatchRequestPointer request_;
};

// An answer that will be there. Letting go of it cancels the request, or waits for the call that runs with it: its
// images are needed no longer.
class Pending {
 public:
  Pending(Pending&&) = default;
  Pending& operator=(Pending&&) = delete;
  ~Pending() {
    if (!answer_.valid()) return;
    ticket_.cancel();
    answer_.wait();
  }

  // Blocks until the answer is there; once.
  Result<Answer> wait() { return answer_.get(); }

  // Blocks for so long at most, and says whether the answer is there.
  template <typename Rep, typename Period>
  bool wait_for(std::chrono::duration<Rep, Period> duration) const {
    return answer_.wait_for(duration) == std::future_status::ready;
  }

  // See Ticket.
  bool cancel() { return ticket_.cancel(); }

 private:
  friend class Batcher;
  Pending(Ticket ticket, std::future<Result<Answer>> answer) : ticket_(std::move(ticket)), answer_(std::move(answer)) {}

  Ticket ticket_;
  std::future<Result<Answer>> answer_;
};

// Answers requests by calls of one engine, one call at a time. For any number of threads.
class Batcher {
 public:
  Batcher(Batcher&&) = default;
  Batcher& operator=(Batcher&&) = delete;
  ~Batcher() {
    if (queue_ != nullptr) queue_->close(true);
  }

  // Starts the thread that calls the engine, which must outlive the batcher and all tickets.
  //
  // options: `plan.most_images` is not read, `most_images` takes its place.
  //
  // Fails with VMOE_ROUTING_ERROR where the bundle routes images in groups, so that an answer would depend on other
  // people's images, or has no such levels; with VMOE_ARGUMENT_ERROR where the options make no sense; with
  // VMOE_RUNTIME_ERROR where no thread can be started.
  static Result<Batcher> start(const Engine& engine, BatcherOptions options) {
    const Info& info = engine.info();
    if (info.batch_multiple != 1) {
      return Error{VMOE_ROUTING_ERROR, "this bundle routes images in groups (" + info.group +
                                           "), so that an answer would depend on other people's images; export it "
                                           "with --group image to serve it"};
    }
    if (options.most_images < 1 || options.most_waiting < options.most_images) {
      return Error{VMOE_ARGUMENT_ERROR, "most_images must be 1 or more, and most_waiting no less"};
    }
    if (options.levels.size() != options.plan.levels.size()) {
      return Error{VMOE_ARGUMENT_ERROR, "there must be as many levels in the plan as names of levels"};
    }
    std::optional<Elastic> elastic;
    if (!options.levels.empty()) {
      for (std::string& level : options.levels) {
        auto profile = named(engine, level);
        if (!profile) return profile.error();
        level = std::move(profile->name);
      }
      options.plan.most_images = options.most_images;
      const auto now = internal::BatcherClock::now().time_since_epoch();
      auto created = Elastic::create(options.plan, std::chrono::duration<double>(now).count());
      if (!created) return created.error();
      elastic.emplace(std::move(*created));
    }
    std::string fixed;
    if (!engine.profiles().empty()) {
      auto profile = engine.setting();
      if (!profile) return profile.error();
      fixed = profile->name;
    }
    try {
      return Batcher(
          std::make_shared<internal::BatchQueue>(engine, std::move(options), std::move(elastic), std::move(fixed)));
    } catch (const std::exception& error) {
      return Error{VMOE_RUNTIME_ERROR, std::string("no thread can be started: ") + error.what()};
    }
  }

  // Puts a request into the queue.
  //
  // images: 1 to most_images of them; they must stay until the answer.
  // setting: name of a profile, stored or systematic, that it is served at whatever the load; empty leaves that to the
  // load.
  // done: called once for a request that was taken, on the batcher's thread, or on that of `cancel` or `close` for one
  // that these end. It must not throw, nor destroy the batcher, and should hand the answer on: the next call waits for
  // it.
  //
  // The target of the plan begins here: what a service does before, such as to read and decode pictures, is not in it.
  //
  // Fails with VMOE_BUSY where too many wait, VMOE_CLOSED after close(), VMOE_IMAGE_ERROR and VMOE_ROUTING_ERROR, and
  // with VMOE_ARGUMENT_ERROR where `done` is empty.
  Result<Ticket> submit(const Images& images, const std::string& setting, AnswerCallback done) {
    if (!done) return Error{VMOE_ARGUMENT_ERROR, "there must be a callback for the answer"};
    const Info& info = queue_->engine().info();
    if (images.count < 1 || images.count > queue_->most_images()) {
      return Error{VMOE_IMAGE_ERROR, "a request takes 1 to " + std::to_string(queue_->most_images()) + " images, not " +
                                         std::to_string(images.count)};
    }
    if (images.data == nullptr || images.height != info.height || images.width != info.width ||
        images.channels != info.channels || (images.dtype != VMOE_UINT8 && images.dtype != info.input_dtype)) {
      return Error{VMOE_IMAGE_ERROR, "images must be " +
                                         std::string(info.input_dtype == VMOE_UINT8 ? "" : "float32 or ") +
                                         "uint8 [N," + std::to_string(info.height) + "," + std::to_string(info.width) +
                                         "," + std::to_string(info.channels) + "]"};
    }
    std::string name;
    if (!setting.empty()) {
      auto profile = named(queue_->engine(), setting);
      if (!profile) return profile.error();
      name = profile->name;
    }
    auto request = queue_->submit(images, std::move(name), std::move(done));
    if (!request) return request.error();
    return Ticket(queue_, std::move(*request));
  }

  // The same, with an answer to wait for.
  Result<Pending> submit(const Images& images, const std::string& setting = {}) {
    auto promise = std::make_shared<std::promise<Result<Answer>>>();
    auto answer = promise->get_future();
    auto ticket = submit(images, setting, [promise](Result<Answer> result) { promise->set_value(std::move(result)); });
    if (!ticket) return ticket.error();
    return Pending(std::move(*ticket), std::move(answer));
  }

  // What there is to do, and what was done so far.
  BatcherLoad load() const { return queue_->load(); }

  // Takes no further requests, and returns when the last call has ended. drain: answer those that wait; without it they
  // get VMOE_CLOSED. The destructor drains. Inside a callback on the batcher's thread it doesn't wait for that call and
  // those that follow.
  void close(bool drain = true) { queue_->close(drain); }

 private:
  explicit Batcher(std::shared_ptr<internal::BatchQueue> queue) : queue_(std::move(queue)) {}

  static Result<Profile> named(const Engine& engine, const std::string& name) {
    Setting setting;
    setting.profile = name;
    return engine.setting(setting);
  }

  std::shared_ptr<internal::BatchQueue> queue_;
};

}  // namespace vmoe

#endif  // VMOE_BATCHER_HPP_
