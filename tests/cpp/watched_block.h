// A grid of blocks on the CPU, with the interface that GPU kernel programs use. Three things run in a random order that
// a seed determines: the threads in a phase, the lanes in a team, and the blocks in a launch. A test may make the grid
// omit a barrier or an exchange.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "cuda/route_program.h"
#include "watched_memory.h"

namespace watched {

using vmoe::cuda::BlockPlace;

class Machine;

// A team of lanes. Between two exchanges, the lanes run in random order.
class Team {
 public:
  // One value per lane. If a lane accesses another lane's value, that is a fault.
  template <class T>
  class Lanes {
   public:
    explicit Lanes(const Team& team) : team_(team), held_(team.lanes_) {}

    T& operator[](uint32_t lane) {
      team_.check_lane(lane);
      return held_[lane];
    }

   private:
    friend class Team;
    const Team& team_;
    std::vector<T> held_;
  };

  Team(const Machine& machine, uint32_t index, uint32_t count, uint32_t lanes)
      : machine_(machine), index_(index), count_(count), lanes_(lanes) {}

  uint32_t index() const { return index_; }
  uint32_t count() const { return count_; }
  uint32_t exchanges() const { return exchanges_; }

  template <class Function>
  void for_each_lane(const Function& function) const;

  template <class T>
  void exchange(Lanes<T>& of, uint32_t distance, Lanes<T>& other) const;

 private:
  const Machine& machine_;
  uint32_t index_;
  uint32_t count_;
  uint32_t lanes_;
  mutable uint32_t lane_ = 0;
  mutable uint32_t exchanges_ = 0;

  void check_lane(uint32_t lane) const;
};

class Machine {
 public:
  Machine(uint64_t seed, int64_t lost_barrier, int64_t lost_distance)
      : random_(seed), lost_barrier_(lost_barrier), lost_distance_(lost_distance) {}

  Clock& shared_clock() { return shared_; }
  Clock& device_clock() { return device_; }

  // Calls run_block(block, place) for every block of a grid, in random order.
  template <class RunBlock>
  void launch(uint32_t grid_x, uint32_t grid_y, uint32_t threads, const RunBlock& run_block) {
    threads_ = threads;
    for (const uint32_t block : any_order(grid_x * grid_y)) {
      block_ = block;
      run_block(*this, BlockPlace{block % grid_x, block / grid_x, grid_x, grid_y});
      ++shared_.period;
    }
    ++device_.period;
  }

  template <class Function>
  void run_phase(const Function& function) const {
    for (const uint32_t thread : any_order(threads_)) {
      act(thread);
      function(thread, threads_);
    }
    pass_barrier();
  }

  template <class Function>
  void run_last_phase(const Function& function) const {
    run_phase(function);
  }

  template <class Function>
  void run_team_phase(uint32_t lanes, const Function& function) const {
    const uint32_t count = threads_ / lanes;
    std::vector<uint32_t> exchanges(count);
    for (const uint32_t index : any_order(count)) {
      const Team team(*this, index, count, lanes);
      function(team);
      exchanges[index] = team.exchanges();
    }
    // An exchange involves all lanes in a warp, so all teams in that warp must take part.
    for (const uint32_t done : exchanges) {
      if (done != exchanges[0]) report("some teams of a block exchange more often than others");
    }
    pass_barrier();
  }

  // Records that `thread` in the current block is now running.
  void act(uint32_t thread) const {
    shared_.actor = thread;
    device_.actor = block_ * threads_ + thread;
  }
  uint32_t draw(uint32_t end) const { return static_cast<uint32_t>(random_() % end); }
  void report(const std::string& what) const { shared_.report(what); }

  // Writes the first fault in shared memory to `fault`. If there is none, writes the first fault in device memory,
  // or "" if there are no faults at all.
  void tell(char* fault, size_t fault_bytes) const {
    std::snprintf(fault, fault_bytes, "%s", (shared_.fault.empty() ? device_ : shared_).fault.c_str());
  }
  int64_t phases() const { return phases_; }
  bool loses_exchanges_at(uint32_t distance) const { return distance == lost_distance_; }

 private:
  mutable std::mt19937_64 random_;
  mutable Clock shared_;
  mutable Clock device_;
  int64_t lost_barrier_;
  int64_t lost_distance_;
  mutable int64_t phases_ = 0;
  uint32_t threads_ = 0;
  uint32_t block_ = 0;

  std::vector<uint32_t> any_order(uint32_t count) const {
    std::vector<uint32_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random_);
    return order;
  }

  void pass_barrier() const {
    if (phases_++ != lost_barrier_) ++shared_.period;
  }
};

template <class Function>
void Team::for_each_lane(const Function& function) const {
  const uint32_t mask = machine_.draw(lanes_);
  for (uint32_t i = 0; i < lanes_; ++i) {
    lane_ = i ^ mask;
    machine_.act(index_ * lanes_ + lane_);
    function(lane_);
  }
}

template <class T>
void Team::exchange(Lanes<T>& of, uint32_t distance, Lanes<T>& other) const {
  if (distance >= lanes_) machine_.report("lanes of two teams exchange what they hold");
  for (uint32_t lane = 0; lane < lanes_; ++lane) {
    other.held_[lane] = of.held_[machine_.loses_exchanges_at(distance) ? lane : (lane ^ distance) % lanes_];
  }
  ++exchanges_;
}

inline void Team::check_lane(uint32_t lane) const {
  if (lane != lane_) machine_.report("a lane sees what another one holds");
}

}  // namespace watched
