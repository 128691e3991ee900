// How a phase reads and writes memory. On the GPU a Memory is a pointer; the tests have one that watches who reads what
// whom has written, so phases do everything through it.
#pragma once

#include <cstddef>
#include <type_traits>

#include "core/host_device.h"

namespace vmoe::cuda {

template <class T>
struct Memory {
  using Value = std::remove_const_t<T>;

  T* data;

  VMOE_HOST_DEVICE Value load(size_t index) const { return data[index]; }
  // One of the floats that values consist of, numbered through all of them.
  VMOE_HOST_DEVICE float load_float(size_t index) const { return reinterpret_cast<const float*>(data)[index]; }
  VMOE_HOST_DEVICE void store(size_t index, T value) const { data[index] = value; }
};

// An output that may not be wanted: then `data` is null.
template <class T>
struct OptionalMemory {
  using Value = T;

  T* data;

  VMOE_HOST_DEVICE void store(size_t index, T value) const {
    if (data != nullptr) data[index] = value;
  }
};

}  // namespace vmoe::cuda
