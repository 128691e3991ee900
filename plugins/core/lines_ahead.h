// Memory that a product will read.
#pragma once

#include <cstddef>

#include "core/tiles.h"
#include "hwy/base.h"

namespace vmoe {

// Lines of memory that are asked for at a steady rate before they are needed.
struct LinesAhead {
  const char* next = nullptr;
  size_t rate = 0;  // lines per step, times 256
  size_t due = 0;

  // kLocality: 3 is the first-level cache, 2 the second.
  template <int kLocality>
  HWY_INLINE void step() {
    for (due += rate; due >= 256; due -= 256) {
      __builtin_prefetch(next, 0, kLocality);
      next += kLineBytes;
    }
  }
};

}  // namespace vmoe
