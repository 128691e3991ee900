// What is known of a node before it runs, its attributes, settings and types, and what each of its calls is held
// against.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "core/routing_shape.h"
#include "ops/op_table.h"
#include "ops/sizes.h"
#include "ops/types.h"

namespace vmoe::ops {

// The value that a node has for an attribute, or nothing where it has none.
using ReadAttribute = std::function<std::optional<int64_t>(const char* name)>;

// Throws OpError unless minimum <= value <= maximum; kNoMaximum is no bound.
void check_range(const std::string& name, int64_t value, int64_t minimum, int64_t maximum);

// The INT attributes of a node, but for those of its routing.
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

// The settings of a call, such as its capacity: inputs of a node or, unless they are optional, INT attributes.
//
// Values by setting, such as settings[Setting::kPool]; nothing for what is left out or not known yet.
class Settings {
 public:
  std::optional<int64_t>& operator[](size_t setting) { return values_[setting]; }
  const std::optional<int64_t>& operator[](size_t setting) const { return values_[setting]; }

  // Throws OpError for one that isn't known.
  int64_t known(size_t setting) const;

  // Throws OpError for a value that no sizes could run with.
  void check() const;

 private:
  std::array<std::optional<int64_t>, std::size(kSettings)> values_;
};

// Whether the op routes tokens to experts, and whether experts choose their tokens then, instead of tokens k experts.
inline bool routes(const OpSpec& spec) { return spec.takes(Setting::kCapacity); }
inline bool experts_choose(const OpSpec& spec) { return routes(spec) && !spec.takes(Setting::kK); }

// The settings that every node of the op has, as an input or as an attribute.
std::vector<size_t> needed_settings(const OpSpec& spec);

// The settings that a node has as attributes. Throws OpError as check.
Settings read_settings(const OpSpec& spec, const ReadAttribute& read);

struct Node {
  const OpSpec* spec;
  Attributes attributes;
  Settings settings;  // those that are attributes
  Types types;        // of all inputs
};

// Throws OpError where an input that the op needs is left out, or scales are given for weights that have none. `types`
// are those of the inputs that are given.
void check_inputs(const OpSpec& spec, const Types& types, const std::function<bool(size_t input)>& is_given);

// Throws OpError where the slots, E * M, or the choices of all tokens, G * S * K, are too many for 32 bits.
void check_numbering(const Sizes& sizes);

// Throws OpError where scales of groups are not one for each group of the depth.
void check_groups(const Sizes& sizes);

// The last check of a call, when `sizes` has the shapes of all its inputs: its attributes and numbers. With an op that
// routes it sets K, and M to what it is without a pool, and returns the routing. Throws OpError, also for a setting
// that is out of range or missing.
RoutingShape check_call(const Node& node, Settings settings, Sizes& sizes);

}  // namespace vmoe::ops
