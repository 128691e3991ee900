// Checks the attributes, settings and types of a node before it runs, and each of its calls.
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

// The INT attributes of a node that are not settings.
class Attributes {
 public:
  // Throws OpError if a value is out of range.
  Attributes(const OpSpec& spec, const ReadAttribute& read);

  int64_t operator[](size_t index) const { return values_[index]; }

  // Throws OpError if an attribute requires quantized weights, but the weights are not quantized according to `types`.
  void check(const Types& types) const;

  // Throws OpError if an attribute does not divide the dimension that it must divide. Dimensions of unknown size are
  // not checked.
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

  // Throws OpError if a value is invalid for any sizes.
  void check() const;

 private:
  std::array<std::optional<int64_t>, std::size(kSettings)> values_;
};

// `routes` returns whether the op routes tokens to experts. `experts_choose` returns whether, in such an op, experts
// choose their tokens instead of each token choosing k experts.
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

// Throws OpError if there is not exactly one scale for each group of 64 elements of a depth (D or F).
void check_groups(const Sizes& sizes);

// Checks the attributes and sizes of a call. `sizes` must already contain the shapes of all inputs. For an op that
// routes, also sets K and M in `sizes`, where M is the number of slots per expert without a pool, and returns the shape
// of the routing. Throws OpError if a check fails, or if a setting is missing or out of range.
RoutingShape check_call(const Node& node, Settings settings, Sizes& sizes);

}  // namespace vmoe::ops
