// Cancels queued requests whose clients have disconnected.
#pragma once

#include <condition_variable>
#include <list>
#include <mutex>
#include <stop_token>
#include <thread>
#include <vmoe/batcher.hpp>

#include "messages.h"

// A thread that checks all clients whose requests wait for the model. The thread sleeps while no request waits. A timer
// for each request would also work, but would cost a system call and a thread wake-up per response.
class ClientWatch {
  struct Watched {
    const HasGone& has_gone;
    vmoe::Ticket ticket;
  };

 public:
  // While this object exists, the client is watched. `has_gone` must outlive this object.
  class Guard {
   public:
    Guard(ClientWatch& watch, const HasGone& has_gone, const vmoe::Ticket& ticket);
    ~Guard();
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

   private:
    ClientWatch& watch_;
    std::list<Watched>::iterator position_;
  };

 private:
  void run(const std::stop_token& stop);

  std::mutex mutex_;
  std::condition_variable_any added_;
  std::list<Watched> watched_;
  std::jthread thread_{[this](const std::stop_token& stop) { run(stop); }};
};
