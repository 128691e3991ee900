// The order in which gates are ranked: descending. -0 ranks as equal to 0, and NaN ranks as 0.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/host_device.h"

namespace vmoe {

// Returns a sort key for `gate`. Sorting by ascending keys puts the gates in descending order.
VMOE_HOST_DEVICE uint32_t descending_bits(float gate) {
  gate = gate != gate ? 0.0f : gate + 0.0f;
  uint32_t bits;
  std::memcpy(&bits, &gate, sizeof(bits));
  const uint32_t ascending = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return ~ascending;
}

}  // namespace vmoe
