// The element types of a node's inputs and outputs. They are checked against the op's type choices.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "ops/op_spec.h"

namespace vmoe::ops {

// The type choices that are still possible for a node. Each value that is added can only reduce them.
class Types {
 public:
  explicit Types(const OpSpec& spec) : left_(spec.choices) {}

  // Returns whether `value` may have the type `type`. This depends on the values that have been added so far.
  bool takes(const ValueSpec& value, ElementType type) const { return choices_left(value, type) != 0; }

  // Adds a value. Throws OpError if the value may not have the type `type`.
  void add(const ValueSpec& value, ElementType type);

  // Returns the error for a value whose type is not allowed. `given` is the name of that type.
  OpError refusal(const ValueSpec& value, const std::string& given) const;

  // Returns the element type of a ValueType. If `type` is a type variable, a value of this ValueType must have been
  // added.
  ElementType operator[](ValueType type) const;

 private:
  uint64_t left_;                                 // bit i: kTypeChoices[i]
  std::array<const char*, kValueTypes> first_{};  // name of the first value added for each ValueType, or null

  uint64_t choices_left(const ValueSpec& value, ElementType type) const;
};

}  // namespace vmoe::ops
