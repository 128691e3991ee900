// Checks a node's attributes, settings and types before the node runs, and then checks each of its calls.
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

// A function that returns the value of a node's attribute `name`, or none if the node omits it.
using ReadAttribute = std::function<std::optional<int64_t>(const char* name)>;

// Throws OpError unless minimum <= value <= maximum; kNoMaximum means no upper bound.
void check_range(const std::string& name, int64_t value, int64_t minimum, int64_t maximum);

// A node's INT attributes that are not settings.
class Attributes {
 public:
  // Throws OpError if a value is out of range.
  Attributes(const OpSpec& spec, const ReadAttribute& read);

  int64_t operator[](size_t index) const { return values_[index]; }

  // Throws OpError if an attribute requires quantized weights, but `types` shows that the weights are not quantized.
  void check(const Types& types) const;

  // Some attributes must divide the size of a dimension. Throws OpError if one of them does not. Dimensions of unknown
  // size are not checked.
  void check(const Sizes& sizes) const;

 private:
  Table<AttributeSpec> specs_;
  std::vector<int64_t> values_;
};

// The settings of a call, such as its capacity. A required setting is an input of the node or an INT attribute; an
// optional setting can only be an input.
//
// Settings are indexed by name, as in settings[Setting::kPool]. The value is none if the setting is omitted or not
// known yet.
class Settings {
 public:
  std::optional<int64_t>& operator[](size_t setting) { return values_[setting]; }
  const std::optional<int64_t>& operator[](size_t setting) const { return values_[setting]; }

  // Returns the value of a setting. Throws OpError if it is not known.
  int64_t known(size_t setting) const;

  // Throws OpError if a setting has a value that is invalid whatever the sizes are.
  void check() const;

 private:
  std::array<std::optional<int64_t>, std::size(kSettings)> values_;
};

// `routes` returns whether the op routes tokens to experts. `experts_choose` returns whether the op routes and its
// experts choose their tokens. In the other ops that route, each token chooses k experts.
inline bool routes(const OpSpec& spec) { return spec.takes(Setting::kCapacity); }
inline bool experts_choose(const OpSpec& spec) { return routes(spec) && !spec.takes(Setting::kK); }

// Returns the settings that every node of the op must provide, as an input or as an attribute.
std::vector<size_t> needed_settings(const OpSpec& spec);

// Returns the settings that a node provides as attributes. Throws OpError if one of them is out of range, or if it may
// only be an input.
Settings read_settings(const OpSpec& spec, const ReadAttribute& read);

struct Node {
  const OpSpec* spec;
  Attributes attributes;
  Settings settings;  // only the settings that are attributes
  Types types;        // of all inputs
};

// Throws OpError in these cases:
// - a required input is omitted
// - weights are quantized, but their scales are omitted
// - weights are not quantized or are omitted, but their scales are given
// `types` contains the types of the given inputs.
void check_inputs(const OpSpec& spec, const Types& types, const std::function<bool(size_t input)>& is_given);

// Throws OpError if there are too many slots (E * M) or choices of tokens (G * S * K) for 32-bit indices.
void check_numbering(const Sizes& sizes);

// Throws OpError unless there is exactly one scale for each group of 64 elements along a depth dimension (D or F).
void check_groups(const Sizes& sizes);

// Checks a call's attributes and sizes. `sizes` must already contain the shapes of all inputs. If the op routes, also
// sets K and M in `sizes` and returns the routing's shape. M is the number of slots that each expert has if there is no
// pool. Throws OpError if a check fails, or if a setting is missing or out of range.
RoutingShape check_call(const Node& node, Settings settings, Sizes& sizes);

}  // namespace vmoe::ops
