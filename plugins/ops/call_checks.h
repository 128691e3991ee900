// The checks of a node before it runs (attributes, settings, types) and of each of its calls.
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

// Returns the value of an attribute of a node; none if the node omits it.
using ReadAttribute = std::function<std::optional<int64_t>(const char* name)>;

// Throws OpError unless minimum <= value <= maximum; kNoMaximum means no upper bound.
void check_range(const std::string& name, int64_t value, int64_t minimum, int64_t maximum);

// The INT attributes of a node, except settings.
class Attributes {
 public:
  // Throws OpError if a value is out of range.
  Attributes(const OpSpec& spec, const ReadAttribute& read);

  int64_t operator[](size_t index) const { return values_[index]; }

  // Throws OpError if an attribute requires quantized weights and these types are not quantized.
  void check(const Types& types) const;

  // Throws OpError if an attribute doesn't divide its dimension. Unknown sizes are not checked.
  void check(const Sizes& sizes) const;

 private:
  Table<AttributeSpec> specs_;
  std::vector<int64_t> values_;
};

// The settings of a call, such as its capacity. Each is an input of the node or, unless it is optional, an INT
// attribute.
//
// Indexed by setting, as in settings[Setting::kPool]; none if omitted or not known yet.
class Settings {
 public:
  std::optional<int64_t>& operator[](size_t setting) { return values_[setting]; }
  const std::optional<int64_t>& operator[](size_t setting) const { return values_[setting]; }

  // Throws OpError if the setting isn't known.
  int64_t known(size_t setting) const;

  // Throws OpError if a value is invalid for any sizes.
  void check() const;

 private:
  std::array<std::optional<int64_t>, std::size(kSettings)> values_;
};

// `routes`: whether the op routes tokens to experts. `experts_choose`: whether it does, and experts choose their tokens
// instead of each token choosing k experts.
inline bool routes(const OpSpec& spec) { return spec.takes(Setting::kCapacity); }
inline bool experts_choose(const OpSpec& spec) { return routes(spec) && !spec.takes(Setting::kK); }

// Returns the settings that every node of the op has, as an input or as an attribute.
std::vector<size_t> needed_settings(const OpSpec& spec);

// Returns the settings that a node has as attributes. Throws OpError if one is out of range or must be an input.
Settings read_settings(const OpSpec& spec, const ReadAttribute& read);

struct Node {
  const OpSpec* spec;
  Attributes attributes;
  Settings settings;  // only those that are attributes
  Types types;        // of all inputs
};

// Throws OpError if a required input is omitted, if quantized weights have no scales, or if other weights have scales.
// `types` has the types of the given inputs.
void check_inputs(const OpSpec& spec, const Types& types, const std::function<bool(size_t input)>& is_given);

// Throws OpError if there are too many slots, E * M, or choices of tokens, G * S * K, for 32-bit indices.
void check_numbering(const Sizes& sizes);

// Throws OpError if there isn't one scale for each group of the depth.
void check_groups(const Sizes& sizes);

// Checks the attributes and sizes of a call, after `sizes` has received the shapes of all inputs. For an op that
// routes, sets K, and M for separate slots per expert, and returns the routing. Throws OpError, also if a setting is
// missing or out of range.
RoutingShape check_call(const Node& node, Settings settings, Sizes& sizes);

}  // namespace vmoe::ops
