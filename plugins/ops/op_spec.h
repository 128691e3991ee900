// The types with which op_table.h declares each op's inputs, outputs and attributes. Also the error for invalid nodes
// and calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>

#include "core/element_type.h"

namespace vmoe::ops {

// The error for an invalid node or call. The message is for the user. A caller may put the op's name in front of the
// message.
class OpError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The type of an input or output: an element type, or one of the type variables W, Q and T. All inputs and outputs of a
// node that have the same variable have the same element type. The order is that of ELEMENT_TYPES in
// exporter/vmoe_export/ops/table.py.
enum class ValueType : uint8_t { kFloat32, kInt32, kInt64, kW, kQ, kT };
inline constexpr size_t kValueTypes = 6;

// One possible combination of element types. It assigns an element type to every ValueType, including the type
// variables.
struct TypeChoice {
  ElementType types[kValueTypes];

  constexpr ElementType operator[](ValueType type) const { return types[static_cast<size_t>(type)]; }
};

enum class Presence : uint8_t {
  kRequired,
  kOptional,
  kSetting,  // a required setting, which is an input or an INT attribute
  kScale,    // scales of weights, which are given if and only if the weights are quantized
};

inline constexpr size_t kNoScale = SIZE_MAX;
inline constexpr size_t kNoSetting = SIZE_MAX;

// An input or output. `dims` has one letter per dimension:
// - G groups, S tokens per group, D hidden, E experts, F expert hidden, K experts per token;
// - M = G * capacity slots per expert;
// - N images, T tokens and Q queries per image;
// - O tokens per image before any merging, U tokens that are left of T after one merging;
// - C coordinates per token, A pairs of columns in a head;
// - P outputs of a dense layer; in Soft MoE, P slots per expert and group, and M = G * P;
// - H = ceil(D / 64), J = ceil(F / 64);
// - 1 is a dimension of size 1.
struct ValueSpec {
  const char* name;
  ValueType type;
  const char* dims;
  Presence presence = Presence::kRequired;
  size_t scale = kNoScale;             // only for weights: the input that contains their scales
  const char* grouped_dims = nullptr;  // used instead of `dims` if each group of weights has a float16 scale
  size_t setting = kNoSetting;  // the setting that this input provides, if any; the host reads it even for a GPU kernel

  constexpr bool is_setting() const { return setting != kNoSetting; }
};

inline constexpr int64_t kNoMaximum = INT64_MAX;

// A setting of a call. Values below `minimum` or above `maximum` are invalid whatever the sizes are.
struct SettingSpec {
  const char* name;
  int64_t minimum, maximum;  // kNoMaximum: none
};

// An INT attribute.
struct AttributeSpec {
  const char* name;
  int64_t otherwise;         // the value if a node omits it
  int64_t minimum, maximum;  // kNoMaximum: none
  char divides;              // the dimension that a nonzero value must divide, or 0 for none
  bool only_quantized;       // whether the value must be 0 if the weights are not quantized
};

// A view of an array that lives as long as the process.
template <class T>
class Table {
 public:
  constexpr Table() = default;
  template <size_t kRows>
  constexpr Table(const T (&rows)[kRows]) : data_(rows), size_(kRows) {}  // NOLINT(google-explicit-constructor)

  constexpr size_t size() const { return size_; }
  constexpr const T& operator[](size_t index) const { return data_[index]; }
  constexpr const T* begin() const { return data_; }
  constexpr const T* end() const { return data_ + size_; }

 private:
  const T* data_ = nullptr;
  size_t size_ = 0;
};

struct OpSpec {
  const char* name;
  Table<ValueSpec> inputs;
  Table<ValueSpec> outputs;
  Table<AttributeSpec> attributes;
  uint64_t choices;  // bit i: the op supports kTypeChoices[i] of op_table.h

  constexpr bool takes(size_t setting) const {
    for (const ValueSpec& input : inputs) {
      if (input.setting == setting) return true;
    }
    return false;
  }

  // Returns the number of outputs that every node has: those before the first optional one.
  constexpr size_t needed_outputs() const {
    size_t count = 0;
    while (count < outputs.size() && outputs[count].presence != Presence::kOptional) ++count;
    return count;
  }
};

}  // namespace vmoe::ops
