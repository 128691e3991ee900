// Few at once of what makes much memory of a request's few bytes, however many clients there are.
#ifndef VMOE_HTTP_TURNS_H_
#define VMOE_HTTP_TURNS_H_

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <mutex>

class Turns {
 public:
  static constexpr size_t kMost = 4;

  // at_once: turns that there are, of which kMost are given at most.
  explicit Turns(size_t at_once) : free_(std::clamp(at_once, size_t{1}, kMost)) {}

  // A turn, while it lives; waits until there is one.
  class Turn {
   public:
    explicit Turn(Turns& turns) : turns_(turns) {
      std::unique_lock lock(turns_.mutex_);
      turns_.changed_.wait(lock, [this] { return turns_.free_ > 0; });
      --turns_.free_;
    }
    ~Turn() {
      const std::lock_guard lock(turns_.mutex_);
      ++turns_.free_;
      turns_.changed_.notify_one();
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    Turns& turns_;
  };

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t free_;
};

#endif  // VMOE_HTTP_TURNS_H_
