// Micro-batches. Requests from any number of threads wait in one bounded queue. A single thread answers them in
// batches. It calls the engine once per batch, with a setting that meets a latency target. Header only; C++17.
//
//   auto batcher = vmoe::Batcher::start(*engine, {});
//   if (!batcher) return fail(batcher.error().message);
//   auto pending = batcher->submit(vmoe::Images::uint8(pixels.data(), 1, 224, 224, 3));
//   if (!pending) return busy(pending.error().message);
//   auto answer = pending->wait();
//
// Each call answers the oldest request. It also answers later requests that have the same setting and dtype, as far as
// they fit into the call. A request is never split over several calls. Requests that arrive during a call wait for the
// next call. No request waits for a timer.
#ifndef VMOE_BATCHER_HPP_
#define VMOE_BATCHER_HPP_

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "vmoe/batcher_load.hpp"
#include "vmoe/elastic.hpp"
#include "vmoe/engine.hpp"

namespace vmoe {

struct BatcherOptions {
  int64_t most_images = 16;    // maximum number of images in one call and in one request
  int64_t most_waiting = 256;  // maximum number of images in the queue; a request that does not fit is refused
  // Profiles for requests that specify no profile. The load decides which of these profiles applies. The least accurate
  // profile comes first. plan.levels has one entry per name, in the same order. If `levels` is empty, requests that
  // specify no profile use the engine's profile at any load.
  std::vector<std::string> levels;
  ElasticPlan plan;
};

struct Answer {
  std::vector<float> output;  // the first output in Info::outputs: float32[N, Info::output_size] for N images
  std::string setting;        // name of the profile that served the request; empty if the model has none
  double waited = 0;          // seconds in the queue, from `submit` to the start of the call
  double seconds = 0;         // seconds of the call
  int64_t batch_size = 0;     // number of images in the call, including images of other requests
  std::map<std::string, std::vector<float>> layers;  // all other outputs in Info::outputs, by name
};

// Receives the answer to a request. If there is no answer, receives an error instead: VMOE_CANCELLED, VMOE_CLOSED, or
// the error that the engine returned.
using AnswerCallback = std::function<void(Result<Answer>)>;

namespace internal {

using BatcherClock = std::chrono::steady_clock;

struct BatchRequest {
  Images images;
  Profile setting;  // if the profile has no name, elastic capacity chooses one
  BatcherClock::time_point came;
  AnswerCallback done;

  bool is_elastic() const { return setting.name.empty(); }
};

using BatchRequestPointer = std::shared_ptr<BatchRequest>;

// The queue of requests, and the thread that answers them. A batcher and its tickets share one BatchQueue.
class BatchQueue {
 public:
  // levels: With `elastic`, one profile per level of `elastic`, in the same order. Without `elastic`, a single profile,
  //   which serves the requests that specify no profile.
  BatchQueue(const Engine& engine, BatcherOptions options, std::optional<Elastic> elastic, std::vector<Profile> levels)
      : engine_(engine), options_(std::move(options)), elastic_(std::move(elastic)), levels_(std::move(levels)) {
    level_ = levels_.size() - 1;
    images_per_call_ = options_.most_images;
    for (const Profile& profile : engine.profiles()) named_.insert(profile.name);
    for (const Profile& level : levels_) named_.insert(level.name);
    if (const auto own = engine.setting()) named_.insert(own->name);
    taken_.reserve(static_cast<size_t>(std::min(options_.most_images, options_.most_waiting)));
    thread_ = std::thread([this] { serve(); });
    thread_id_ = thread_.get_id();
  }
  BatchQueue(const BatchQueue&) = delete;
  BatchQueue& operator=(const BatchQueue&) = delete;

  const Engine& engine() const { return engine_; }
  int64_t most_images() const { return options_.most_images; }

  Result<BatchRequestPointer> submit(const Images& images, Profile setting, AnswerCallback done) {
    auto request =
        std::make_shared<BatchRequest>(BatchRequest{images, std::move(setting), BatcherClock::now(), std::move(done)});
    const std::lock_guard lock(mutex_);
    if (!open_) return Error{VMOE_CLOSED, "the server is shutting down"};
    if (load_.waiting + images.count > options_.most_waiting) {
      ++load_.refused;
      return Error{VMOE_BUSY, std::to_string(load_.waiting) + " images wait already, and at most " +
                                  std::to_string(options_.most_waiting) + " may"};
    }
    queue_.push_back(request);
    load_.waiting += images.count;
    if (request->is_elastic()) {
      elastic_waiting_ += images.count;
      elastic_arrived_ += images.count;
    }
    changed_.notify_one();
    return request;
  }

  bool cancel(const BatchRequestPointer& request) {
    {
      const std::lock_guard lock(mutex_);
      const auto place = std::find(queue_.begin(), queue_.end(), request);
      if (place == queue_.end()) return false;
      queue_.erase(place);
      leave(*request);
      ++load_.cancelled;
    }
    finish(*request, failed(VMOE_CANCELLED, "the request was cancelled"));
    return true;
  }

  void close(bool drain) {
    std::deque<BatchRequestPointer> dropped;
    {
      const std::lock_guard lock(mutex_);
      open_ = false;
      if (!drain) {
        dropped.swap(queue_);
        for (const auto& request : dropped) leave(*request);
      }
      changed_.notify_one();
    }
    for (const auto& request : dropped) finish(*request, failed(VMOE_CLOSED, "the server is shutting down"));
    if (std::this_thread::get_id() == thread_id_) return;  // a callback called close(), and a thread can't join itself
    const std::lock_guard joining(join_mutex_);
    if (thread_.joinable()) thread_.join();
  }

  BatcherLoad load() const {
    const std::lock_guard lock(mutex_);
    BatcherLoad load = load_;
    load.level = levels_[level_].name;
    return load;
  }

 private:
  static double seconds(BatcherClock::duration duration) { return std::chrono::duration<double>(duration).count(); }

  // Updates the counts for a request that has left the queue.
  void leave(const BatchRequest& request) {
    load_.waiting -= request.images.count;
    if (request.is_elastic()) elastic_waiting_ -= request.images.count;
  }

  // Calls a request's callback with the result. Must be called exactly once per request.
  static void finish(BatchRequest& request, Result<Answer> result) {
    const AnswerCallback done = std::exchange(request.done, nullptr);
    try {
      done(std::move(result));
    } catch (const std::exception&) {
      // Ignores an exception that the callback threw, because it must not affect other requests.
    }
  }

  // Returns an error as a result. If there is not enough memory to copy the message, the error's message is empty. The
  // callback can therefore receive an error even if memory has run out.
  static Result<Answer> failed(vmoe_code code, const char* message) noexcept {
    try {
      return Error{code, message};
    } catch (const std::bad_alloc&) {
      return Error{code, {}};
    }
  }

  // Converts the exception that is being handled to an error, and returns it as a result.
  static Result<Answer> caught() noexcept {
    try {
      throw;
    } catch (const std::bad_alloc&) {
      return failed(VMOE_MEMORY_ERROR, "out of memory");
    } catch (const std::exception& error) {
      return failed(VMOE_RUNTIME_ERROR, error.what());
    }
  }

  void serve() {
    for (;;) {
      try {
        const Profile* setting = nullptr;
        {
          std::unique_lock lock(mutex_);
          changed_.wait(lock, [this] { return !open_ || !queue_.empty(); });
          if (queue_.empty()) return;
          const bool elastic = queue_.front()->is_elastic();
          take(elastic ? decide() : options_.most_images);
          setting = elastic ? &levels_[level_] : &taken_.front()->setting;
        }
        answer(*setting);
      } catch (const std::exception&) {
        for (const auto& request : taken_) {
          if (request->done) finish(*request, caught());
        }
      }
      taken_.clear();
    }
  }

  // If elastic capacity is in use, chooses the level of the next call. In either case, returns the maximum number of
  // images in that call.
  int64_t decide() {
    if (!elastic_) return options_.most_images;
    const auto now = BatcherClock::now();
    const auto next = elastic_->decide(
        {seconds(now.time_since_epoch()), elastic_waiting_, seconds(now - queue_.front()->came), elastic_arrived_});
    elastic_arrived_ = 0;
    if (next) {
      level_ = next->level;
      images_per_call_ = next->images;
    }
    return images_per_call_;
  }

  // Moves the first request in the queue to `taken_`, together with later requests that fit into the same call. Does
  // not allocate memory, because `taken_` has enough reserved capacity.
  void take(int64_t most) {
    const BatchRequestPointer first = queue_.front();
    int64_t room = most;
    for (auto next = queue_.begin(); next != queue_.end();) {
      BatchRequest& request = **next;
      if (request.setting.name != first->setting.name || request.images.dtype != first->images.dtype) {
        ++next;
        continue;
      }
      if (!taken_.empty() && request.images.count > room) break;
      room -= request.images.count;
      leave(request);
      taken_.push_back(std::move(*next));
      next = queue_.erase(next);
    }
  }

  // Answers the requests in `taken_` with one call of the engine.
  void answer(const Profile& setting) {
    const auto start = BatcherClock::now();
    const Images images = joined_images();
    const auto outputs = engine_.run_outputs(images, setting.setting());
    const double seconds_taken = seconds(BatcherClock::now() - start);
    if (!outputs) {
      for (const auto& request : taken_) finish(*request, outputs.error());
      return;
    }
    {
      const std::lock_guard lock(mutex_);
      load_.served[named_.count(setting.name) != 0 ? setting.name : "other"] += images.count;
      ++load_.calls;
      load_.busy += seconds_taken;
    }
    int64_t first = 0;  // index of the current request's first image in the batch
    for (const auto& request : taken_) {
      try {
        Answer answer{{}, setting.name, seconds(start - request->came), seconds_taken, images.count, {}};
        for (const OutputShape& shape : engine_.info().outputs) {
          const auto begin = outputs->at(shape.name).cbegin() + first * shape.floats();
          auto& own = &shape == engine_.info().outputs.data() ? answer.output : answer.layers[shape.name];
          own.assign(begin, begin + request->images.count * shape.floats());
        }
        finish(*request, std::move(answer));
      } catch (const std::exception&) {
        finish(*request, caught());
      }
      first += request->images.count;
    }
    // Reports the time from the start of this call until the next call can start, because elastic capacity needs all of
    // it. This time includes assembling the batch and delivering the answers.
    if (elastic_ && taken_.front()->is_elastic()) {
      const std::lock_guard lock(mutex_);
      (void)elastic_->served(level_, images.count, seconds(BatcherClock::now() - start));
    }
  }

  // Returns the images of all requests in `taken_` as one contiguous batch.
  Images joined_images() {
    Images all = taken_.front()->images;
    if (taken_.size() == 1) return all;
    all.count = 0;
    for (const auto& request : taken_) all.count += request->images.count;
    batch_.resize(all.bytes());
    unsigned char* next = batch_.data();
    for (const auto& request : taken_) {
      std::memcpy(next, request->images.data, request->images.bytes());
      next += request->images.bytes();
    }
    all.data = batch_.data();
    return all;
  }

  const Engine& engine_;
  const BatcherOptions options_;
  std::optional<Elastic> elastic_;
  const std::vector<Profile> levels_;
  std::set<std::string> named_;  // profiles that have their own count in load_.served; others count as "other"

  mutable std::mutex mutex_;  // guards the members from changed_ to load_
  std::condition_variable changed_;
  std::deque<BatchRequestPointer> queue_;
  bool open_ = true;
  int64_t elastic_waiting_ = 0, elastic_arrived_ = 0;  // images
  size_t level_ = 0;
  int64_t images_per_call_ = 0;
  BatcherLoad load_;  // without `level`

  std::vector<BatchRequestPointer> taken_;
  std::vector<unsigned char> batch_;
  std::mutex join_mutex_;
  std::thread thread_;
  std::thread::id thread_id_;
};

}  // namespace internal

// A submitted request.
class Ticket {
 public:
  // Removes the request from the queue and returns true. The request's callback receives VMOE_CANCELLED before this
  // function returns. Returns false if the request is in a running call, or has already been answered.
  bool cancel() { return queue_->cancel(request_); }

 private:
  friend class Batcher;
  Ticket(std::shared_ptr<internal::BatchQueue> queue, internal::BatchRequestPointer request)
      : queue_(std::move(queue)), request_(std::move(request)) {}

  std::shared_ptr<internal::BatchQueue> queue_;
  internal::BatchRequestPointer request_;
};

// A submitted request whose answer can be waited for. The destructor cancels the request. If the request is in a
// running call, the destructor waits until that call ends. After the destructor has returned, the image data is no
// longer needed.
class Pending : public Ticket {
 public:
  Pending(Pending&&) = default;
  Pending& operator=(Pending&&) = delete;
  ~Pending() {
    if (!answer_.valid()) return;
    cancel();
    answer_.wait();
  }

  // Blocks until the answer arrives, and returns it. May be called once.
  Result<Answer> wait() { return answer_.get(); }

  // Blocks until the answer arrives, but for at most `duration`. Returns whether the answer has arrived.
  template <typename Rep, typename Period>
  bool wait_for(std::chrono::duration<Rep, Period> duration) const {
    return answer_.wait_for(duration) == std::future_status::ready;
  }

 private:
  friend class Batcher;
  Pending(Ticket ticket, std::future<Result<Answer>> answer) : Ticket(std::move(ticket)), answer_(std::move(answer)) {}

  std::future<Result<Answer>> answer_;
};

// A bounded queue of requests, and the thread that answers them with one call of the engine at a time. Any number of
// threads may use a batcher.
class Batcher {
 public:
  Batcher(Batcher&&) = default;
  Batcher& operator=(Batcher&&) = delete;
  ~Batcher() {
    if (queue_ != nullptr) queue_->close(true);
  }

  // Starts a batcher and its thread, which calls the engine. The engine must not be moved, and must outlive the batcher
  // and all tickets.
  //
  // options: options.most_images limits the images per call. options.plan.most_images is ignored.
  //
  // Fails with:
  // - VMOE_ROUTING_ERROR if the bundle routes images in groups, because an answer would then depend on other requests;
  // - VMOE_ROUTING_ERROR if the model does not support a level;
  // - VMOE_ARGUMENT_ERROR if an option is invalid;
  // - VMOE_RUNTIME_ERROR if the thread can't be started or there is not enough memory to start it.
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
    std::vector<Profile> levels;
    if (!options.levels.empty()) {
      for (const std::string& level : options.levels) {
        auto profile = named(engine, level);
        if (!profile) return profile.error();
        levels.push_back(std::move(*profile));
      }
      options.plan.most_images = options.most_images;
      const auto now = internal::BatcherClock::now().time_since_epoch();
      auto created = Elastic::create(options.plan, std::chrono::duration<double>(now).count());
      if (!created) return created.error();
      elastic.emplace(std::move(*created));
    } else {
      auto own = engine.setting();
      levels.push_back(own ? std::move(*own) : Profile());  // a profile without a name if the engine has none
    }
    try {
      return Batcher(
          std::make_shared<internal::BatchQueue>(engine, std::move(options), std::move(elastic), std::move(levels)));
    } catch (const std::exception& error) {
      return Error{VMOE_RUNTIME_ERROR, std::string("the batcher can't start: ") + error.what()};
    }
  }

  // Adds a request to the queue. The latency that plan.target limits starts with this call. It therefore excludes the
  // time to read and decode pictures.
  //
  // images: 1 to most_images images. Their data must stay valid until the answer arrives.
  // setting: name of a stored or systematic profile, which then applies at any load. If empty, the load decides which
  //   profile applies.
  // done: called once per accepted request, usually on the batcher's thread. If `cancel` or `close` ends the request,
  //   `done` is called inside that function. It must not destroy the batcher. It should be quick, because the next call
  //   of the engine waits until `done` returns. Exceptions that it throws are ignored.
  //
  // Fails with:
  // - VMOE_BUSY if the queue has no room for the images;
  // - VMOE_CLOSED after close();
  // - VMOE_IMAGE_ERROR if the model does not accept the images;
  // - VMOE_IMAGE_ERROR if there are no images, or more than most_images;
  // - VMOE_ROUTING_ERROR if the model does not support the setting;
  // - VMOE_ARGUMENT_ERROR if `done` is empty, or the images' data is null or not aligned.
  Result<Ticket> submit(const Images& images, const std::string& setting, AnswerCallback done) {
    if (!done) return Error{VMOE_ARGUMENT_ERROR, "there must be a callback for the answer"};
    if (images.count < 1 || images.count > queue_->most_images()) {
      return Error{VMOE_IMAGE_ERROR, "a request takes 1 to " + std::to_string(queue_->most_images()) + " images, not " +
                                         std::to_string(images.count)};
    }
    // Refuses invalid images before they enter the queue. Otherwise, they would cause an error for all requests in the
    // same call.
    const vmoe_images c_images = internal::c_images(images);
    if (auto* status = vmoe_engine_check_images(queue_->engine().handle(), &c_images)) return internal::take(status);
    Profile profile;
    if (!setting.empty()) {
      auto found = named(queue_->engine(), setting);
      if (!found) return found.error();
      profile = std::move(*found);
    }
    auto request = queue_->submit(images, std::move(profile), std::move(done));
    if (!request) return request.error();
    return Ticket(queue_, std::move(*request));
  }

  // Adds a request to the queue, like the function above, but without a callback. Returns an object whose wait()
  // returns the answer.
  Result<Pending> submit(const Images& images, const std::string& setting = {}) {
    auto promise = std::make_shared<std::promise<Result<Answer>>>();
    auto answer = promise->get_future();
    auto ticket = submit(images, setting, [promise](Result<Answer> result) { promise->set_value(std::move(result)); });
    if (!ticket) return ticket.error();
    return Pending(std::move(*ticket), std::move(answer));
  }

  // Returns the state of the queue and the counts so far.
  BatcherLoad load() const { return queue_->load(); }

  // Refuses further requests, and returns when the last call has ended. If `drain` is true, the requests in the queue
  // are answered first. Otherwise, they fail with VMOE_CLOSED. The destructor calls close(true). If a callback on the
  // batcher's thread calls close(), close() does not wait for the running call or any later call.
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
