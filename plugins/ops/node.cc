#include "ops/node.h"

#include <algorithm>
#include <string>

#include "ops/op_error.h"

namespace vmoe::ops {

void check_inputs(const OpSpec& spec, const Types& types, const std::function<bool(size_t input)>& is_given) {
  for (size_t i = 0; i < spec.inputs.size(); ++i) {
    const ValueSpec& input = spec.inputs[i];
    if (input.presence == Presence::kRequired && !is_given(i)) {
      throw OpError(std::string("input ") + input.name + " is missing");
    }
    if (input.scale == kNoScale) continue;
    const ElementType type = types[input.type];
    const std::string scale = spec.inputs[input.scale].name;
    if (is_given(input.scale) != (type == ElementType::kInt8)) {
      throw OpError(std::string(input.name) + " is " + name_of(type) + ", so input " + scale + " must be " +
                    (type == ElementType::kInt8 ? "given" : "left out"));
    }
  }
}

namespace {

// Sets M of an op whose slots are P for each group.
void check_slots(Sizes& sizes) {
  const auto slots = static_cast<int64_t>(sizes['G'] * sizes['P']);
  if (sizes.has('M') && static_cast<int64_t>(sizes['M']) != slots) {
    throw OpError("M is " + std::to_string(sizes['M']) + ", but G * P is " + std::to_string(slots));
  }
  sizes.set('M', slots);
}

}  // namespace

RoutingShape check_call(const Node& node, RoutingSettings settings, Sizes& sizes) {
  node.attributes.check(sizes);
  if (node.spec->experts_choose()) {
    // To a routing, every expert is a choice of each token.
    settings.values[1] = std::max<int64_t>(static_cast<int64_t>(sizes['E']), 1);
    settings.values[2] = 0;
  }
  if (node.spec->routes()) return settings.routing_shape(sizes);
  if (sizes.has('G') && sizes.has('P')) check_slots(sizes);
  check_numbering(sizes);
  return {};
}

}  // namespace vmoe::ops
