// Connections: a deadline for each request, a thread for each connection, and an end that lets the client read its
// answer.
#ifndef VMOE_HTTP_CONNECTIONS_H_
#define VMOE_HTTP_CONNECTIONS_H_

#include <httplib.h>
#include <poll.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

using Clock = std::chrono::steady_clock;

// Whether a socket is ready before `end`: POLLIN, POLLOUT. One whose peer has gone is.
bool wait_for(socket_t socket, short events, Clock::time_point end);

// A connection whose requests have a deadline as a whole: a client that drips a byte a second is no longer for it.
class DeadlineStream : public httplib::Stream {
 public:
  DeadlineStream(socket_t socket, std::chrono::seconds patience) : socket_(socket), patience_(patience) {}

  // Bytes of a next request are here already.
  bool has_bytes() const { return first_ != last_; }
  bool is_late() const { return late_; }

  // There is no next request: what comes is the rest of this one.
  void end() { ended_ = true; }
  bool has_ended() const { return ended_ || late_; }

  void begin_request();
  // The time for an answer to be taken runs from its first byte, not from that of "100 Continue".
  void begin_answer() { writing_ = false; }
  bool is_answering() const { return writing_; }

  bool is_readable() const override { return has_bytes() || wait_for(socket_, POLLIN, read_end_); }
  bool is_writable() const override { return wait_for(socket_, POLLOUT, write_end()); }
  ssize_t read(char* data, size_t size) override;
  ssize_t write(const char* data, size_t size) override;
  socket_t socket() const override { return socket_; }

  // Nobody asks who it is.
  void get_remote_ip_and_port(std::string&, int&) const override {}
  void get_local_ip_and_port(std::string&, int&) const override {}

 private:
  Clock::time_point write_end() const;

  const socket_t socket_;
  const std::chrono::seconds patience_;
  Clock::time_point read_end_;
  mutable Clock::time_point write_end_;
  mutable bool writing_ = false;
  bool late_ = false, ended_ = false;
  std::array<char, 16384> buffer_{};
  size_t first_ = 0, last_ = 0;
};

// A thread for each connection, up to a limit.
class LimitedThreads {
 public:
  // serve: must not throw.
  LimitedThreads(size_t most, std::function<void(socket_t)> serve);
  // Waits until all are served.
  ~LimitedThreads();

  // False where there is no thread for it: the limit is reached, or the system gives none.
  bool take(socket_t socket);

 private:
  void work();

  const size_t most_;
  const std::function<void(socket_t)> serve_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<socket_t> queue_;
  std::vector<std::thread> threads_;
  size_t idle_ = 0;
  bool ends_ = false;
};

// Closes connections: a client that still sends has two seconds to read its answer, which the system would take back
// if bytes were left unread.
class GentleCloser {
 public:
  GentleCloser();
  // Waits until all are closed.
  ~GentleCloser();

  void close(socket_t socket);

 private:
  void work();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<socket_t> came_;
  size_t open_ = 0;
  bool ends_ = false;
  std::thread thread_;
};

#endif  // VMOE_HTTP_CONNECTIONS_H_
