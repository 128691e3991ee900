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

// A callback, for as long as it is set or running.
class Hook {
 public:
  Hook(int32_t least_level, vmoe_log_callback callback, void* user, void (*release)(void*))
      : least_level_(least_level), callback_(callback), user_(user), release_(release) {}
  ~Hook() {
    if (release_ != nullptr) release_(user_);
  }
  Hook(const Hook&) = delete;
  Hook& operator=(const Hook&) = delete;

  bool takes(vmoe_log_level level) const { return level >= least_level_; }
  void call(vmoe_log_level level, const char* message) const { callback_(user_, level, message); }

  const pid_t process = getpid();

 private:
  int32_t least_level_;
  vmoe_log_callback callback_;
  void* user_;
  void (*release_)(void*);
};

struct Log {
  std::mutex mutex;
  std::shared_ptr<Hook> hook;  // null: nobody listens; each running call has one, too
  std::condition_variable dropped;
  std::atomic<int32_t> least_level{kNothing};
};

// Never destroyed: threads of the runtime may outlive every static object.
Log& the_log() {
  static auto& log = *new Log;
  return log;
}

thread_local bool inside = false;

std::shared_ptr<Hook> begin_call(vmoe_log_level level) {
  const std::lock_guard lock(the_log().mutex);
  auto hook = the_log().hook;
  if (hook == nullptr || !hook->takes(level)) return nullptr;
  return hook;
}

// The last one is released without the lock, which `release` could need.
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
  auto hook = callback == nullptr ? nullptr : std::make_shared<Hook>(least_level, callback, user, release);
  std::unique_lock lock(log.mutex);
  log.least_level = callback == nullptr ? kNothing : least_level;
  std::swap(log.hook, hook);
  // Calls that a forked process took over from its parent never end, and a callback would wait for itself.
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
    ignoring_failures([&] { hook->call(level, line.c_str()); });
    inside = false;
    drop(std::move(hook));
  });
}

}  // namespace vmoe::sdk
