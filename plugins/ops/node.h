// What is known of a node before it runs, and what each of its calls is held against.
#pragma once

#include <cstddef>
#include <functional>

#include "core/routing_shape.h"
#include "ops/attributes.h"
#include "ops/op_spec.h"
#include "ops/settings.h"
#include "ops/sizes.h"
#include "ops/types.h"

namespace vmoe::ops {

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
