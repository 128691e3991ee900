// The counts of a batcher, as runtime/vmoe_serve/metrics.py declares them. Written by
//
//   python tools/cpp_headers.py
// clang-format off
#ifndef VMOE_BATCHER_LOAD_HPP_
#define VMOE_BATCHER_LOAD_HPP_

#include <cstdint>
#include <map>
#include <string>

namespace vmoe {

// What a batcher has to do and has done.
struct BatcherLoad {
  std::string level; // the profile of requests that ask for none; empty for a model without
  // Images so far, by profile: those of the bundle and the levels by name, all else that clients ask for as "other".
  std::map<std::string, int64_t> served;
  int64_t waiting = 0; // Images in the queue.
  int64_t calls = 0; // Calls of the engine.
  double busy = 0; // Seconds of these calls.
  int64_t refused = 0; // Requests that found the queue full.
  int64_t cancelled = 0; // Requests whose client disconnected in the queue.
};

}  // namespace vmoe

#endif  // VMOE_BATCHER_LOAD_HPP_
