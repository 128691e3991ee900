// A fixed number of threads that run the work posted to them.
#pragma once

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <cstddef>
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

// Runs the work that is posted to `context`. Returns when the context has no work left and expects no more.
inline void run_all(boost::asio::io_context& context) {
  for (;;) {
    try {
      context.run();
      return;
    } catch (const std::exception&) {
      // Memory ran out between two steps of a coroutine. This ends only that coroutine. The other coroutines continue.
    }
  }
}

// A pool of threads. It replaces boost::asio::thread_pool, which waits forever for its threads if the system could
// start only some of them.
class Workers {
 public:
  // Starts `count` threads. Throws std::runtime_error if the system can't start all of them.
  explicit Workers(size_t count) : context_(static_cast<int>(count)), work_(context_.get_executor()) {
    try {
      while (threads_.size() < count) threads_.emplace_back([this] { run_all(context_); });
    } catch (const std::exception& error) {
      context_.stop();
      throw std::runtime_error("can't start " + std::to_string(count) + " threads: " + error.what());
    }
  }
  ~Workers() { context_.stop(); }

  boost::asio::io_context& context() { return context_; }

 private:
  boost::asio::io_context context_;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_;
  std::vector<std::jthread> threads_;
};
