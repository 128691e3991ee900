// Memory that a product will read.
#pragma once

#include <cstddef>

#include "core/tiles.h"
#include "hwy/base.h"

namespace vmoe {

// Lines of memory that are asked for at a steady rate before they are needed, into the second-level cache: it waits for
// more of them at once than the first one.
struct LinesAhead {
  const char* next = nullptr;
  size_t rate = 0;  // lines per step, times 256
  size_t due = 0;

  HWY_INLINE void step() {
    for (due += rate; due >= 256; due -= 256) {
      __builtin_prefetch(next, 0, 2);
      next += kLineBytes;
    }
  }
};

}  // namespace vmoe
