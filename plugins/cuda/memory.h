// How phases access memory. On the GPU, a Memory is a pointer. The tests use a class that also checks whether a thread
// reads what another thread has written. To work with either one, phases access memory only through Memory's interface.
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
  // Loads one float. `index` is the float's position when the memory is treated as an array of floats.
  VMOE_HOST_DEVICE float load_float(size_t index) const { return reinterpret_cast<const float*>(data)[index]; }
  VMOE_HOST_DEVICE void store(size_t index, T value) const { data[index] = value; }
};

// An optional output. `data` is null if the output is not requested.
template <class T>
struct OptionalMemory {
  using Value = T;

  T* data;

  VMOE_HOST_DEVICE void store(size_t index, T value) const {
    if (data != nullptr) data[index] = value;
  }
};

}  // namespace vmoe::cuda
