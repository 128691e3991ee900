// Threads that run what is posted to them.
#pragma once

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

// Unlike boost::asio::thread_pool, which waits forever for the first threads if the system does not start all of them.
class Workers : public boost::asio::io_context {
 public:
  // Throws std::runtime_error if the system has not so many threads.
  explicit Workers(size_t count) : work_(get_executor()) {
    try {
      while (threads_.size() < count) threads_.emplace_back([this] { run(); });
    } catch (const std::exception& error) {
      stop();
      throw std::runtime_error("can't start " + std::to_string(count) + " threads: " + error.what() +
                               "; the fewer --connections, the fewer threads");
    }
  }
  ~Workers() { stop(); }

  // Returns when all that was posted has run.
  void join() {
    work_.reset();
    threads_.clear();
  }

 private:
  boost::asio::executor_work_guard<executor_type> work_;
  std::vector<std::jthread> threads_;
};
