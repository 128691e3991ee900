// The element types of a node's inputs and outputs, checked against the type choices of its op.
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

  // Returns whether `value` may have the type `type`, considering the values added so far.
  bool takes(const ValueSpec& value, ElementType type) const { return choices_left(value, type) != 0; }

  // Adds a value. Throws OpError if it may not have `type`.
  void add(const ValueSpec& value, ElementType type);

  // Returns the error for a value whose type is not allowed; `given` names that type.
  OpError refusal(const ValueSpec& value, const std::string& given) const;

  // Returns the element type of a ValueType. If it is a type variable, a value of this ValueType must have been added.
  ElementType operator[](ValueType type) const;

 private:
  uint64_t left_;                                 // bit i: kTypeChoices[i]
  std::array<const char*, kValueTypes> first_{};  // the first value that was added for each ValueType, or null

  uint64_t choices_left(const ValueSpec& value, ElementType type) const;
};

}  // namespace vmoe::ops
