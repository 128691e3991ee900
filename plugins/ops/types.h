// The element types of a node's inputs and outputs, held against the choices of its op.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "ops/op_spec.h"

namespace vmoe::ops {

// The choices of types that are left, the more values are known the fewer.
class Types {
 public:
  explicit Types(const OpSpec& spec) : left_(spec.choices) {}

  // Whether `value` may have `type`, with the values that were added.
  bool takes(const ValueSpec& value, ElementType type) const { return choices_left(value, type) != 0; }

  // Throws OpError for a type that `value` may not have.
  void add(const ValueSpec& value, ElementType type);

  // The error for a value whose type has this name.
  OpError refusal(const ValueSpec& value, const std::string& given) const;

  // The element type that the values of `type` have; of a type variable, a value must have been added.
  ElementType operator[](ValueType type) const;

 private:
  uint64_t left_;                                 // bit i: kTypeChoices[i]
  std::array<const char*, kValueTypes> first_{};  // of each type, the first value that was added, or null

  uint64_t choices_left(const ValueSpec& value, ElementType type) const;
};

}  // namespace vmoe::ops
