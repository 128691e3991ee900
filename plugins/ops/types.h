// The element types of a node's inputs and outputs, checked against the type choices of its op.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "ops/op_spec.h"

namespace vmoe::ops {

// The type choices that remain possible. Each added value can only reduce them.
class Types {
 public:
  explicit Types(const OpSpec& spec) : left_(spec.choices) {}

  // Whether `value` may have `type`, considering the values added so far.
  bool takes(const ValueSpec& value, ElementType type) const { return choices_left(value, type) != 0; }

  // Adds a value. Throws OpError if it may not have `type`.
  void add(const ValueSpec& value, ElementType type);

  // Returns the error for a value of a type that it may not have; `given` names that type.
  OpError refusal(const ValueSpec& value, const std::string& given) const;

  // Returns the element type of a ValueType. For a type variable, one of its values must have been added.
  ElementType operator[](ValueType type) const;

 private:
  uint64_t left_;                                 // bit i: kTypeChoices[i]
  std::array<const char*, kValueTypes> first_{};  // per ValueType: the first value that was added, or null

  uint64_t choices_left(const ValueSpec& value, ElementType type) const;
};

}  // namespace vmoe::ops
