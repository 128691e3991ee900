// The sizes and settings of a routing.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vmoe {

struct RoutingShape {
  size_t groups = 0;    // G
  size_t tokens = 0;    // S, per group
  size_t experts = 0;   // E
  size_t choices = 0;   // K, 1 to E
  size_t capacity = 0;  // c, the number of slots per expert and group, at least 1; E * G * c must fit into an int32
  bool batch_priority = true;
  bool pool = false;              // whether the experts of a group share all slots of the group
  size_t max_experts = SIZE_MAX;  // maximum number of experts that a group may use, at least 1

  bool has_policies() const { return pool || max_experts < experts; }
  size_t slots() const { return groups * capacity; }  // M, the number of slots of each expert if there is no pool
};

}  // namespace vmoe
