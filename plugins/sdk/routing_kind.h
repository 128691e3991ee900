// Routing kinds: what a call may set in each, and the message for what it may not.
#pragma once

#include <cstdint>

#include "vmoe/engine.h"

namespace vmoe::sdk {

// How a model routes.
struct RoutingKind {
  vmoe_routing_kind code = VMOE_DENSE;
  int64_t ensemble_size = 1;     // M, the members of an E3, which have E / M experts each
  int64_t slots_per_expert = 0;  // P, Soft MoE only
  int64_t image_tokens = 0;      // T, if blocks can merge tokens; else 0

  // kOf* of the kind; that of an ensemble if it is one.
  unsigned bit() const;

  // What a call may set, VMOE_SET_* together.
  int settings() const;

  // Refuses settings, VMOE_SET_* together, that there are none of. Throws VMOE_ROUTING_ERROR.
  void check_settings(int set) const;
};

}  // namespace vmoe::sdk
