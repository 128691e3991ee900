// The queue behind a Batcher, and the thread that serves it; batcher.hpp is what to include.
#ifndef VMOE_BATCH_QUEUE_HPP_
#define VMOE_BATCH_QUEUE_HPP_

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "vmoe/elastic.hpp"
#include "vmoe/engine.hpp"

namespace vmoe {

struct BatcherOptions {
  int64_t most_images = 32;    // of a call, and of a request
  int64_t most_waiting = 256;  // images in the queue; further requests are refused
  // For requests that ask for no setting: names of profiles, the least accurate first, and what elastic.hpp decides
  // by: as many levels, in that order. Empty: the engine's profile, whatever the load.
  std::vector<std::string> levels;
  ElasticPlan plan;
};

struct Answer {
  std::vector<float> output;  // f32[N, Info::output_size]: logits, features or members of the request's images
  std::string setting;        // the profile that served them; empty for a model that has none
  double waited = 0;          // seconds in the queue, from `submit` on
  double seconds = 0;         // that the call took
  int64_t together = 0;       // images of the call, those of other requests included
};

// What a batcher has to do and has done.
struct BatcherLoad {
  int64_t waiting = 0;  // images in the queue
  std::string level;    // the profile of requests that ask for none; empty for a model without
  // Images so far, by profile: those of the bundle and the levels by name, all else that clients ask for as "other".
  std::map<std::string, int64_t> served;
  int64_t calls = 0;      // of the engine so far
  int64_t refused = 0;    // requests that found the queue full
  int64_t cancelled = 0;  // requests that were taken back before their turn came
  double busy = 0;        // seconds that calls took together
};

// Has the answer of a request, or why there is none: VMOE_CANCELLED, VMOE_CLOSED, or the error of the call.
using AnswerCallback = std::function<void(Result<Answer>)>;

namespace internal {

using BatcherClock = std::chrono::steady_clock;

struct BatchRequest {
  Images images;
  std::string setting;  // empty: elastic
  BatcherClock::time_point came;
  AnswerCallback done;
  bool waiting = true;  // in the queue
};

using BatchRequestPointer = std::shared_ptr<BatchRequest>;

// The queue and the thread that serves it; what Batcher and Ticket share.
class BatchQueue {
 public:
  BatchQueue(const Engine& engine, BatcherOptions options, std::optional<Elastic> elastic, std::string fixed)
      : engine_(engine), options_(std::move(options)), elastic_(std::move(elastic)), fixed_(std::move(fixed)) {
    if (elastic_) level_ = options_.levels.size() - 1;
    images_per_call_ = options_.most_images;
    for (const Profile& profile : engine.profiles()) served_[profile.name] = 0;
    for (const std::string& level : options_.levels) served_[level] = 0;
    served_[fixed_] = served_[kOther] = 0;
    taken_.reserve(static_cast<size_t>(std::min(options_.most_images, options_.most_waiting)));
    thread_ = std::thread([this] { serve(); });
    thread_id_ = thread_.get_id();
  }
  BatchQueue(const BatchQueue&) = delete;
  BatchQueue& operator=(const BatchQueue&) = delete;

  const Engine& engine() const { return engine_; }
  int64_t most_images() const { return options_.most_images; }

  Result<BatchRequestPointer> submit(const Images& images, std::string setting, AnswerCallback done) {
    auto request = std::make_shared<BatchRequest>(
        BatchRequest{images, std::move(setting), BatcherClock::now(), std::move(done), true});
    const std::lock_guard lock(mutex_);
    if (!open_) return Error{VMOE_CLOSED, "the server is shutting down"};
    if (waiting_ + images.count > options_.most_waiting) {
      ++refused_;
      return Error{VMOE_BUSY, std::to_string(waiting_) + " images wait already, and at most " +
                                  std::to_string(options_.most_waiting) + " may"};
    }
    queue_.push_back(request);
    waiting_ += images.count;
    if (request->setting.empty()) {
      elastic_waiting_ += images.count;
      elastic_arrived_ += images.count;
    }
    changed_.notify_one();
    return request;
  }

  bool cancel(const BatchRequestPointer& request) {
    {
      const std::lock_guard lock(mutex_);
      if (!request->waiting) return false;
      queue_.erase(std::find(queue_.begin(), queue_.end(), request));
      leave(*request);
      ++cancelled_;
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
    if (std::this_thread::get_id() == thread_id_) return;  // a callback can't wait for the thread that runs it
    const std::lock_guard joining(join_mutex_);
    if (thread_.joinable()) thread_.join();
  }

  BatcherLoad load() const {
    const std::lock_guard lock(mutex_);
    BatcherLoad load{waiting_, level_name(), {}, calls_, refused_, cancelled_, busy_};
    for (const auto& [setting, images] : served_) {
      if (images > 0) load.served[setting] = images;
    }
    return load;
  }

 private:
  static constexpr char kOther[] = "other";

  static double seconds(BatcherClock::duration duration) { return std::chrono::duration<double>(duration).count(); }

  const std::string& level_name() const { return elastic_ ? options_.levels[level_] : fixed_; }

  // A request is in the queue no more; the caller takes it out.
  void leave(BatchRequest& request) {
    request.waiting = false;
    waiting_ -= request.images.count;
    if (request.setting.empty()) elastic_waiting_ -= request.images.count;
  }

  // Tells a request's outcome, once.
  static void finish(BatchRequest& request, Result<Answer> result) {
    std::exchange(request.done, nullptr)(std::move(result));
  }

  // A reason for someone who must hear of one: without its sentence where there is no memory even for that.
  static Result<Answer> failed(vmoe_code code, const char* sentence) noexcept {
    try {
      return Error{code, sentence};
    } catch (const std::bad_alloc&) {
      return Error{code, {}};
    }
  }

  void serve() {
    for (;;) {
      try {
        const std::string* setting = nullptr;
        {
          std::unique_lock lock(mutex_);
          changed_.wait(lock, [this] { return !open_ || !queue_.empty(); });
          if (queue_.empty()) return;
          const bool elastic = queue_.front()->setting.empty();
          take(elastic ? decide() : options_.most_images);
          setting = elastic ? &level_name() : &taken_.front()->setting;
        }
        answer(taken_, *setting);
      } catch (const std::exception&) {
        for (const auto& request : taken_) {
          if (request->done) finish(*request, failed(VMOE_MEMORY_ERROR, "out of memory"));
        }
      }
      taken_.clear();
    }
  }

  // Moves to the level of the next call, and says how many images that takes.
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

  // Moves the first request and those behind it that fit into a call with it to `taken_`, which has room for them.
  void take(int64_t most) {
    const BatchRequestPointer first = queue_.front();
    int64_t room = most;
    for (auto next = queue_.begin(); next != queue_.end();) {
      BatchRequest& request = **next;
      if (request.setting != first->setting || request.images.dtype != first->images.dtype) {
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

  void answer(const std::vector<BatchRequestPointer>& requests, const std::string& setting) {
    const auto start = BatcherClock::now();
    std::optional<Error> error;
    std::vector<float> output;
    Images images = requests.front()->images;
    try {
      images = together(requests);
      Setting asked;
      if (!setting.empty()) asked.profile = setting;
      auto result = engine_.run(images, asked);
      if (result) output = std::move(*result);
      if (!result) error = result.error();
    } catch (const std::exception&) {
      error = Error{VMOE_MEMORY_ERROR, "out of memory"};
    }
    const double taken = seconds(BatcherClock::now() - start);
    if (!error) {
      const std::lock_guard lock(mutex_);
      const auto own = served_.find(setting);
      (own != served_.end() ? own : served_.find(kOther))->second += images.count;
      ++calls_;
      busy_ += taken;
    }
    auto first = output.cbegin();
    for (const auto& request : requests) {
      Result<Answer> result = Error{VMOE_MEMORY_ERROR, "out of memory"};
      try {
        if (error) {
          result = *error;
        } else {
          const auto last = first + request->images.count * engine_.info().output_size;
          result = Answer{{first, last}, setting, seconds(start - request->came), taken, images.count};
          first = last;
        }
      } catch (const std::bad_alloc&) {
      }
      finish(*request, std::move(result));
    }
    // What the next call waits for is more than the engine: the batch is put together, and answers are given out.
    if (!error && elastic_ && requests.front()->setting.empty()) {
      const std::lock_guard lock(mutex_);
      (void)elastic_->served(level_, images.count, seconds(BatcherClock::now() - start));
    }
  }

  // The images of all requests, beside each other.
  Images together(const std::vector<BatchRequestPointer>& requests) {
    Images all = requests.front()->images;
    if (requests.size() == 1) return all;
    const size_t bytes = static_cast<size_t>(all.height * all.width * all.channels) *
                         (all.dtype == VMOE_UINT8 ? sizeof(uint8_t) : sizeof(float));
    all.count = 0;
    for (const auto& request : requests) all.count += request->images.count;
    batch_.resize(static_cast<size_t>(all.count) * bytes);
    unsigned char* next = batch_.data();
    for (const auto& request : requests) {
      const size_t size = static_cast<size_t>(request->images.count) * bytes;
      std::memcpy(next, request->images.data, size);
      next += size;
    }
    all.data = batch_.data();
    return all;
  }

  const Engine& engine_;
  const BatcherOptions options_;
  std::optional<Elastic> elastic_;
  const std::string fixed_;  // the profile without elastic capacity

  mutable std::mutex mutex_;  // of all that follows, but for taken_ and batch_, which are the thread's
  std::condition_variable changed_;
  std::deque<BatchRequestPointer> queue_;
  bool open_ = true;
  int64_t waiting_ = 0, elastic_waiting_ = 0, elastic_arrived_ = 0;  // images
  size_t level_ = 0;
  int64_t images_per_call_ = 0;
  std::map<std::string, int64_t> served_;  // every key that there will be
  int64_t calls_ = 0, refused_ = 0, cancelled_ = 0;
  double busy_ = 0;

  std::vector<BatchRequestPointer> taken_;
  std::vector<unsigned char> batch_;
  std::mutex join_mutex_;
  std::thread thread_;
  std::thread::id thread_id_;
};

}  // namespace internal

}  // namespace vmoe

#endif  // VMOE_BATCH_QUEUE_HPP_
