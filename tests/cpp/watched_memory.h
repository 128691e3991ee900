// Memory that checks which actors read and write it. With such memory, the tests run the phases of GPU kernels on the
// CPU.
//
// Each barrier begins a new period. If an actor writes an element, no other actor may read or write that element in the
// same period. What a period and an actor are depends on the memory:
// - In shared memory, a period is a phase, and an actor is a thread of the block.
// - In device memory, a period is a launch, because barriers don't synchronize blocks. An actor is any thread of the
//   launch.
// Reading unwritten elements and accessing memory out of bounds are also faults.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace watched {

// The current period, the current actor, and the first fault.
struct Clock {
  uint32_t period = 1;
  uint32_t actor = 0;
  std::string fault;

  void report(const std::string& what) {
    if (fault.empty()) fault = what;
  }
};

template <class T>
class Array {
 public:
  Array(const char* name, Clock* clock, size_t size) : name_(name), clock_(clock), values_(size), marks_(size) {}

  Array(const char* name, Clock* clock, const T* values, size_t size) : Array(name, clock, size) {
    if (reinterpret_cast<uintptr_t>(values) % sizeof(T) != 0) report(0, "is not aligned");
    if (size > 0) std::memcpy(values_.data(), static_cast<const void*>(values), size * sizeof(T));
    for (Mark& mark : marks_) mark.is_set = true;
  }

  // Marks all values as unwritten. The shared memory of a new block is in this state.
  void forget() {
    for (Mark& mark : marks_) mark = {};
    for (T& value : values_) value = garbage();
  }

  T load(size_t index) {
    if (!check(index)) return garbage();
    Mark& mark = marks_[index];
    if (!mark.is_set) report(index, "is read but was never written");
    if (mark.written == clock_->period && mark.writer != clock_->actor) {
      report(index, "is read by one thread and written by another with no barrier between");
    }
    if (mark.read == clock_->period && mark.reader != clock_->actor) {
      mark.has_readers = true;
    } else if (mark.read != clock_->period) {
      mark.has_readers = false;
    }
    mark.read = clock_->period;
    mark.reader = clock_->actor;
    return values_[index];
  }

  void store(size_t index, T value) {
    if (!check(index)) return;
    Mark& mark = marks_[index];
    if (mark.written == clock_->period && mark.writer != clock_->actor) {
      report(index, "is written by two threads with no barrier between");
    }
    if (mark.read == clock_->period && (mark.has_readers || mark.reader != clock_->actor)) {
      report(index, "is written by one thread and read by another with no barrier between");
    }
    mark.is_set = true;
    mark.written = clock_->period;
    mark.writer = clock_->actor;
    values_[index] = value;
  }

  // Copies all values to `values`. Reading a value that was never written is a fault.
  void copy_to(T* values) {
    for (size_t i = 0; i < values_.size(); ++i) {
      values[i] = values_[i];
      if (!marks_[i].is_set) report(i, "was not written");
    }
  }

 private:
  struct Mark {
    uint32_t written = 0;
    uint32_t writer = 0;
    uint32_t read = 0;
    uint32_t reader = 0;
    bool has_readers = false;  // whether several actors have read the element in the period `read`
    bool is_set = false;
  };

  const char* name_;
  Clock* clock_;
  std::vector<T> values_;
  std::vector<Mark> marks_;

  static T garbage() {
    T value;
    auto* const bytes = reinterpret_cast<unsigned char*>(&value);
    for (size_t i = 0; i < sizeof(T); ++i) bytes[i] = 0xa5;
    return value;
  }

  bool check(size_t index) {
    if (index < values_.size()) return true;
    report(index, "is out of bounds");
    return false;
  }

  void report(size_t index, const char* what) {
    clock_->report(std::string(name_) + "[" + std::to_string(index) + "] of " + std::to_string(values_.size()) + " " +
                   what);
  }
};

// The interface through which phases access an Array.
template <class T>
struct Memory {
  using Value = T;

  Array<T>* array;

  T load(size_t index) const { return array->load(index); }
  float load_float(size_t index) const {
    constexpr size_t kFloats = sizeof(T) / sizeof(float);
    const T value = array->load(index / kFloats);
    float one;
    std::memcpy(&one, reinterpret_cast<const unsigned char*>(&value) + index % kFloats * sizeof(float), sizeof(float));
    return one;
  }
  void store(size_t index, T value) const { array->store(index, value); }
};

}  // namespace watched
