#include "client_watch.h"

#include <chrono>

namespace {

constexpr auto kLook = std::chrono::milliseconds(50);  // interval between checks

}  // namespace

ClientWatch::Guard::Guard(ClientWatch& watch, const HasGone& has_gone, const vmoe::Ticket& ticket) : watch_(watch) {
  const std::lock_guard lock(watch.mutex_);
  position_ = watch.watched_.insert(watch.watched_.end(), Watched{has_gone, ticket});
  watch.added_.notify_one();
}

ClientWatch::Guard::~Guard() {
  const std::lock_guard lock(watch_.mutex_);
  watch_.watched_.erase(position_);
}

void ClientWatch::run(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (added_.wait(lock, stop, [this] { return !watched_.empty(); })) {
    lock.unlock();
    std::this_thread::sleep_for(kLook);
    lock.lock();
    for (Watched& watched : watched_) {
      if (watched.has_gone()) watched.ticket.cancel();
    }
  }
}
