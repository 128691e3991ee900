// The INT attributes of a node, but for those of its routing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "ops/op_spec.h"
#include "ops/sizes.h"
#include "ops/types.h"

namespace vmoe::ops {

// The value that a node has for an attribute, or nothing where it has none.
using ReadAttribute = std::function<std::optional<int64_t>(const char* name)>;

// Throws OpError unless minimum <= value <= maximum; kNoMaximum is no bound.
void check_range(const std::string& name, int64_t value, int64_t minimum, int64_t maximum);

class Attributes {
 public:
  // Throws OpError for a value out of range.
  Attributes(const OpSpec& spec, const ReadAttribute& read);

  int64_t operator[](size_t index) const { return values_[index]; }

  // Throws OpError for an attribute that these types don't have.
  void check(const Types& types) const;

  // Throws OpError for an attribute that doesn't divide the size that it should. Sizes may be unknown.
  void check(const Sizes& sizes) const;

 private:
  Table<AttributeSpec> specs_;
  std::vector<int64_t> values_;
};

}  // namespace vmoe::ops
