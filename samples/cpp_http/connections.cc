#include "connections.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace {

constexpr auto kLinger = std::chrono::seconds(2);      // for a client that still sends to read its answer
constexpr auto kLook = std::chrono::milliseconds(20);  // between two looks at which connections are to be closed
constexpr size_t kMostLeaving = 256;                   // clients that are waited for; a further one is cut off

int milliseconds_until(Clock::time_point end) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 3'600'000));
}

}  // namespace

bool wait_for(socket_t socket, short events, Clock::time_point end) {
  for (;;) {
    pollfd poll_socket{socket, events, 0};
    const int ready = poll(&poll_socket, 1, milliseconds_until(end));
    if (ready > 0) return true;
    if (ready == 0 || errno != EINTR) return false;
  }
}

void DeadlineStream::begin_request() {
  read_end_ = Clock::now() + patience_;
  writing_ = false;
}

ssize_t DeadlineStream::read(char* data, size_t size) {
  if (!has_bytes()) {
    if (!wait_for(socket_, POLLIN, read_end_)) {
      late_ = true;
      return -1;
    }
    const ssize_t got = recv(socket_, buffer_.data(), buffer_.size(), 0);
    if (got <= 0) return got;
    first_ = 0;
    last_ = static_cast<size_t>(got);
  }
  const size_t part = std::min(size, last_ - first_);
  std::memcpy(data, buffer_.data() + first_, part);
  first_ += part;
  return static_cast<ssize_t>(part);
}

ssize_t DeadlineStream::write(const char* data, size_t size) {
  if (!wait_for(socket_, POLLOUT, write_end())) return -1;
  return send(socket_, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
}

Clock::time_point DeadlineStream::write_end() const {
  if (!writing_) write_end_ = Clock::now() + patience_;
  writing_ = true;
  return write_end_;
}

LimitedThreads::LimitedThreads(size_t most, std::function<void(socket_t)> serve)
    : most_(most), serve_(std::move(serve)) {}

LimitedThreads::~LimitedThreads() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
    changed_.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
}

bool LimitedThreads::take(socket_t socket) {
  const std::lock_guard lock(mutex_);
  try {
    if (idle_ <= queue_.size()) {
      if (threads_.size() == most_) return false;
      threads_.emplace_back([this] { work(); });
    }
    queue_.push_back(socket);
  } catch (const std::exception&) {
    return false;
  }
  changed_.notify_one();
  return true;
}

void LimitedThreads::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    ++idle_;
    changed_.wait(lock, [this] { return ends_ || !queue_.empty(); });
    --idle_;
    if (queue_.empty()) return;
    const socket_t socket = queue_.front();
    queue_.pop_front();
    lock.unlock();
    serve_(socket);
    lock.lock();
  }
}

GentleCloser::GentleCloser() {
  came_.reserve(kMostLeaving);
  thread_ = std::thread([this] { work(); });
}

GentleCloser::~GentleCloser() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
    changed_.notify_one();
  }
  thread_.join();
}

void GentleCloser::close(socket_t socket) {
  shutdown(socket, SHUT_WR);
  const std::lock_guard lock(mutex_);
  if (open_ == kMostLeaving) {
    ::close(socket);
    return;
  }
  ++open_;
  came_.push_back(socket);
  changed_.notify_one();
}

void GentleCloser::work() {
  std::vector<pollfd> sockets;
  std::vector<Clock::time_point> ends;
  std::array<char, 65536> rest{};
  std::unique_lock lock(mutex_);
  sockets.reserve(kMostLeaving);
  ends.reserve(kMostLeaving);
  for (;;) {
    changed_.wait(lock, [&] { return ends_ || open_ != 0; });
    if (open_ == 0) return;
    for (const socket_t socket : came_) {
      sockets.push_back({socket, POLLIN, 0});
      ends.push_back(Clock::now() + kLinger);
    }
    came_.clear();
    lock.unlock();
    poll(sockets.data(), sockets.size(), static_cast<int>(kLook.count()));
    for (size_t i = 0; i < sockets.size();) {
      const auto [socket, asked, found] = sockets[i];
      const bool gone = found != 0 && recv(socket, rest.data(), rest.size(), MSG_DONTWAIT) <= 0;
      if (!gone && Clock::now() < ends[i]) {
        ++i;
        continue;
      }
      ::close(socket);
      sockets[i] = sockets.back();
      ends[i] = ends.back();
      sockets.pop_back();
      ends.pop_back();
    }
    lock.lock();
    open_ = sockets.size() + came_.size();
  }
}
