#include "http_server.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kIdle = std::chrono::seconds(60);       // that a connection may stay without a request
constexpr auto kLook = std::chrono::milliseconds(50);  // between two looks at whether the server stops
constexpr auto kLinger = std::chrono::seconds(2);      // for a client that still sends to read why it was refused
constexpr auto kRefusal = std::chrono::milliseconds(20);
constexpr size_t kLingerBytes = size_t{64} << 20;

int milliseconds_until(Clock::time_point end) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 3'600'000));
}

bool wait_for(socket_t socket, short events, Clock::time_point end) {
  for (;;) {
    pollfd poll_socket{socket, events, 0};
    const int ready = poll(&poll_socket, 1, milliseconds_until(end));
    if (ready > 0) return true;
    if (ready == 0 || errno != EINTR) return false;
  }
}

void address_of(socket_t socket, bool peer, std::string& ip, int& port) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  auto* any = reinterpret_cast<sockaddr*>(&address);
  if ((peer ? getpeername(socket, any, &size) : getsockname(socket, any, &size)) != 0) return;
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> service{};
  if (getnameinfo(any, size, host.data(), host.size(), service.data(), service.size(),
                  NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return;
  }
  ip = host.data();
  port = std::atoi(service.data());
}

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

  void begin_request() {
    read_end_ = Clock::now() + patience_;
    writing_ = false;
  }

  bool is_readable() const override { return has_bytes() || wait_for(socket_, POLLIN, read_end_); }
  bool is_writable() const override { return wait_for(socket_, POLLOUT, write_end()); }

  ssize_t read(char* data, size_t size) override {
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

  ssize_t write(const char* data, size_t size) override {
    if (!wait_for(socket_, POLLOUT, write_end())) return -1;
    return send(socket_, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
  }

  void get_remote_ip_and_port(std::string& ip, int& port) const override { address_of(socket_, true, ip, port); }
  void get_local_ip_and_port(std::string& ip, int& port) const override { address_of(socket_, false, ip, port); }
  socket_t socket() const override { return socket_; }

 private:
  Clock::time_point write_end() const {
    if (!writing_) write_end_ = Clock::now() + patience_;
    writing_ = true;
    return write_end_;
  }

  const socket_t socket_;
  const std::chrono::seconds patience_;
  Clock::time_point read_end_;
  mutable Clock::time_point write_end_;
  mutable bool writing_ = false;
  bool late_ = false, ended_ = false;
  std::array<char, 16384> buffer_{};
  size_t first_ = 0, last_ = 0;
};

// The connection that the thread serves.
thread_local DeadlineStream* current = nullptr;
thread_local bool refuses = false;

// A thread for each connection, up to a limit; one more is served by the caller, who only refuses.
class LimitedThreads : public httplib::TaskQueue {
 public:
  explicit LimitedThreads(size_t most) : most_(most) {}

  bool enqueue(std::function<void()> serve) override {
    {
      const std::lock_guard lock(mutex_);
      if (idle_ > queue_.size() || threads_.size() < most_) {
        queue_.push_back(std::move(serve));
        if (idle_ < queue_.size()) threads_.emplace_back([this] { work(); });
        changed_.notify_one();
        return true;
      }
    }
    refuses = true;
    serve();
    refuses = false;
    return true;
  }

  void shutdown() override {
    {
      const std::lock_guard lock(mutex_);
      ends_ = true;
      changed_.notify_all();
    }
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      ++idle_;
      changed_.wait(lock, [this] { return ends_ || !queue_.empty(); });
      --idle_;
      if (queue_.empty()) return;
      const auto serve = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      serve();
      lock.lock();
    }
  }

  const size_t most_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  std::vector<std::thread> threads_;
  size_t idle_ = 0;
  bool ends_ = false;
};

void end_connection(httplib::Response& response) {
  response.set_header("Connection", "close");
  current->end();
}

// Closes a connection so that a client which still sends gets the answer before the end.
void close_gently(socket_t socket) {
  shutdown(socket, SHUT_WR);
  std::array<char, 16384> rest{};
  size_t drained = 0;
  for (const auto end = Clock::now() + kLinger; drained < kLingerBytes && wait_for(socket, POLLIN, end);) {
    const ssize_t got = recv(socket, rest.data(), rest.size(), 0);
    if (got <= 0) break;
    drained += static_cast<size_t>(got);
  }
  close(socket);
}

}  // namespace

HttpServer::HttpServer(const HttpLimits& limits, std::function<std::string(const std::string&)> error_body,
                       std::function<void(int)> refused)
    : limits_(limits), error_body_(std::move(error_body)), refused_(std::move(refused)) {
  new_task_queue = [most = limits.connections] { return new LimitedThreads(most); };
  set_tcp_nodelay(true);
  set_payload_max_length(limits.most_bytes);
  set_error_handler(
      [this](const httplib::Request& request, httplib::Response& response) { explain(request, response); });
  set_exception_handler([this](const httplib::Request&, httplib::Response& response, const std::exception_ptr& thrown) {
    int status = 500;
    std::string sentence = "something unknown went wrong";
    try {
      std::rethrow_exception(thrown);
    } catch (const std::bad_alloc&) {
      status = 503;
      sentence = "there is not enough memory for this request";
    } catch (const std::exception& error) {
      sentence = error.what();
    }
    refused_(status);
    refuse(response, status, sentence);
  });
}

int HttpServer::bind(const std::string& host, int port) {
  errno = 0;
  const int bound = port == 0 ? bind_to_any_port(host) : (bind_to_port(host, port) ? port : -1);
  // httplib lets five clients wait to be accepted, and a burst of more would wait for seconds.
  if (bound >= 0 && ::listen(svr_sock_, SOMAXCONN) == 0) return bound;
  throw std::runtime_error("can't serve at " + host + ":" + std::to_string(port) + ": " +
                           (errno != 0 ? std::strerror(errno) : "there is no such host"));
}

void HttpServer::refuse(httplib::Response& response, int status, const std::string& sentence) const {
  response.status = status;
  if (status == 503) response.set_header("Retry-After", "1");
  response.set_content(error_body_(sentence), "application/json");
}

bool HttpServer::read_body(const httplib::Request& request, httplib::Response& response,
                           const httplib::ContentReader& reader, std::string& body) const {
  if (request.is_multipart_form_data()) {
    refused_(400);
    refuse(response, 400, "a form is not understood: send the picture itself, or JSON");
    end_connection(response);
    return false;
  }
  bool too_large = false;
  const bool complete = reader([&](const char* data, size_t size) {
    too_large = body.size() + size > limits_.most_bytes;
    if (!too_large) body.append(data, size);
    return !too_large;
  });
  if (complete && !too_large) return true;
  if (too_large || response.status == 413) {
    response.status = 413;
  } else if (current->is_late()) {
    response.status = 408;
  } else if (response.status < 400) {
    response.status = 400;
  }
  explain(request, response);
  return false;
}

// The sentence of a refusal that httplib made.
void HttpServer::explain(const httplib::Request& request, httplib::Response& response) const {
  if (!response.body.empty()) return;
  const int status = response.status;
  const std::string path = request.path.substr(0, 200);
  std::string sentence;
  switch (status) {
    case 404: sentence = "there is nothing at " + path; break;
    case 405: sentence = request.method + " is not what " + path + " takes"; break;
    case 408: sentence = late_sentence(); break;
    case 413: sentence = "the body is larger than " + std::to_string(limits_.most_bytes >> 20) + " MB"; break;
    case 414: sentence = "the address is too long"; break;
    default: sentence = status < 500 ? "the request can't be understood" : "the request can't be served"; break;
  }
  refused_(status);
  refuse(response, status, sentence);
  // What is left of its body is no next request.
  if (status != 404) end_connection(response);
}

void HttpServer::stop_serving() {
  stopping_ = true;
  stop();
}

std::string HttpServer::late_sentence() const {
  return "the request did not arrive within " + std::to_string(limits_.request.count()) + " seconds";
}

// A refusal where httplib gives none.
void HttpServer::refuse_raw(socket_t socket, const char* status, const std::string& sentence) const {
  refused_(std::atoi(status));
  const std::string body = error_body_(sentence);
  const std::string reply =
      std::string("HTTP/1.1 ") + status +
      "\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: " +
      std::to_string(body.size()) + "\r\n\r\n" + body;
  (void)send(socket, reply.data(), reply.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

bool HttpServer::process_and_close_socket(socket_t socket) {
  if (refuses) {
    // This is the thread that accepts: it takes what the client has sent, so that the answer isn't lost, but waits
    // little.
    std::array<char, 16384> rest{};
    if (wait_for(socket, POLLIN, Clock::now() + kRefusal)) (void)recv(socket, rest.data(), rest.size(), MSG_DONTWAIT);
    refuse_raw(socket, "503 Service Unavailable", "as many clients are connected as may be");
    close(socket);
    return true;
  }
  serve_connection(socket);
  close_gently(socket);
  return true;
}

void HttpServer::serve_connection(socket_t socket) {
  DeadlineStream stream(socket, limits_.request);
  current = &stream;
  std::string remote, local;
  int remote_port = 0, local_port = 0;
  stream.get_remote_ip_and_port(remote, remote_port);
  stream.get_local_ip_and_port(local, local_port);
  for (bool closed = false; !closed;) {
    const auto idle_end = Clock::now() + kIdle;
    while (!stream.has_bytes() && !stopping_ && Clock::now() < idle_end &&
           !wait_for(socket, POLLIN, Clock::now() + kLook)) {
    }
    if (stopping_ || (!stream.has_bytes() && !wait_for(socket, POLLIN, Clock::now()))) break;
    stream.begin_request();
    const bool served = process_request(stream, remote, remote_port, local, local_port, false, closed, nullptr);
    // Its head was late already; httplib says nothing then.
    if (!served && stream.is_late()) refuse_raw(socket, "408 Request Timeout", late_sentence());
    if (!served || stream.has_ended()) break;
  }
  current = nullptr;
}
