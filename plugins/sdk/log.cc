#include "sdk/log.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <utility>

namespace vmoe::sdk {

namespace {

constexpr int32_t kNothing = VMOE_LOG_ERROR + 1;

// A log callback that is set now, or that was replaced but is still running. The destructor releases the callback's
// data.
struct Hook {
  int32_t least_level;
  vmoe_log_callback callback;
  void* user;
  void (*release)(void*);
  pid_t process = getpid();

  ~Hook() {
    if (release != nullptr) release(user);
  }
};

struct Log {
  std::mutex mutex;
  std::shared_ptr<Hook> hook;  // null if no callback is set; each running call also holds a reference to it
  std::condition_variable dropped;
  std::atomic<int32_t> least_level{kNothing};
};

// Never destroyed, because ONNX Runtime's threads may outlive every static object.
Log& the_log() {
  static auto& log = *new Log;
  return log;
}

thread_local bool inside = false;

std::shared_ptr<Hook> begin_call(vmoe_log_level level) {
  const std::lock_guard lock(the_log().mutex);
  const auto& hook = the_log().hook;
  return hook != nullptr && level >= hook->least_level ? hook : nullptr;
}

// Drops a reference to a hook. If it is the last reference, releases the hook only after unlocking the mutex, because
// `release` may need the mutex.
void drop(std::shared_ptr<Hook> hook) {
  {
    const std::lock_guard lock(the_log().mutex);
    if (hook.use_count() > 1) hook.reset();
  }
  the_log().dropped.notify_all();
}

}  // namespace

void set_log(int32_t least_level, vmoe_log_callback callback, void* user, void (*release)(void*)) {
  if (least_level < VMOE_LOG_DEBUG || least_level > VMOE_LOG_ERROR) {
    fail(VMOE_ARGUMENT_ERROR, "there is no log level ", least_level, "; there are 0 to 3");
  }
  Log& log = the_log();
  // NOLINTNEXTLINE(modernize-make-shared): it can't construct aggregates
  auto hook = callback == nullptr ? nullptr : std::shared_ptr<Hook>(new Hook{least_level, callback, user, release});
  std::unique_lock lock(log.mutex);
  log.least_level = callback == nullptr ? kNothing : least_level;
  std::swap(log.hook, hook);
  // Waits until running calls of the previous callback have ended, with two exceptions. A forked process does not wait
  // for calls that it inherited from its parent, because they never end in the forked process. A callback does not
  // wait, because it would wait for itself.
  if (hook != nullptr && hook->process == getpid() && !inside) {
    log.dropped.wait(lock, [&] { return hook.use_count() == 1; });
  }
  lock.unlock();
  drop(std::move(hook));
}

bool is_logged(vmoe_log_level level) noexcept { return level >= the_log().least_level; }

bool in_log_callback() noexcept { return inside; }

void log_message(vmoe_log_level level, const char* message) noexcept {
  if (inside || !is_logged(level)) return;
  ignoring_failures([&] {
    const std::string line = one_line(message);
    auto hook = begin_call(level);
    if (hook == nullptr) return;
    inside = true;
    ignoring_failures([&] { hook->callback(hook->user, level, line.c_str()); });
    inside = false;
    drop(std::move(hook));
  });
}

}  // namespace vmoe::sdk
