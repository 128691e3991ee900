// The numbers of a routing.
#pragma once

#include <cstddef>

namespace vmoe {

struct RoutingShape {
  size_t groups = 0;    // G
  size_t tokens = 0;    // S, per group
  size_t experts = 0;   // E
  size_t choices = 0;   // K, 1 to E
  size_t capacity = 0;  // c, places per expert and group, at least 1; E * G * c fits an int32
  bool batch_priority = true;

  size_t places() const { return groups * capacity; }  // M
};

}  // namespace vmoe
