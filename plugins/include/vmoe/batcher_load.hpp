// The load and the counters of a batcher. Generated from runtime/vmoe_serve/metrics.py by
//
//   python tools/cpp_headers.py
// clang-format off
#ifndef VMOE_BATCHER_LOAD_HPP_
#define VMOE_BATCHER_LOAD_HPP_

#include <cstdint>
#include <map>
#include <string>

namespace vmoe {

// The current load of a batcher, and its counts so far.
struct BatcherLoad {
  std::string level; // the profile for requests that specify no profile; empty if the model has no profiles
  // Images so far, by profile. Profiles that are neither in the bundle nor a level are counted as "other".
  std::map<std::string, int64_t> served;
  int64_t waiting = 0; // Images in the queue.
  int64_t calls = 0; // Calls of the engine.
  double busy = 0; // Seconds of these calls.
  int64_t refused = 0; // Requests that found the queue full.
  int64_t cancelled = 0; // Requests whose client disconnected in the queue.
};

}  // namespace vmoe

#endif  // VMOE_BATCHER_LOAD_HPP_
