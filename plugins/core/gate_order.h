// The order of gates: descending, 0 and -0 equal, NaN as 0.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/host_device.h"

namespace vmoe {

// Bits that sort ascending as the gates sort descending.
VMOE_HOST_DEVICE uint32_t descending_bits(float gate) {
  gate = gate != gate ? 0.0f : gate + 0.0f;
  uint32_t bits;
  std::memcpy(&bits, &gate, sizeof(bits));
  const uint32_t ascending = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return ~ascending;
}

}  // namespace vmoe
