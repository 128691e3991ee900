#include "ops/node.h"

#include <algorithm>
#include <string>

#include "ops/op_error.h"

namespace vmoe::ops {

void CheckInputs(const OpSpec& spec, const Types& types, const std::function<bool(size_t input)>& is_given) {
  for (size_t i = 0; i < spec.inputs.size(); ++i) {
    const ValueSpec& input = spec.inputs[i];
    if (input.presence == Presence::kRequired && !is_given(i)) {
      throw OpError(std::string("input ") + input.name + " is missing");
    }
    if (input.scale == kNoScale) continue;
    const ElementType type = types[input.type];
    const std::string scale = spec.inputs[input.scale].name;
    if (is_given(input.scale) != (type == ElementType::kInt8)) {
      throw OpError(std::string(input.name) + " is " + NameOf(type) + ", so input " + scale + " must be " +
                    (type == ElementType::kInt8 ? "given" : "left out"));
    }
  }
}

namespace {

// What experts that choose are to a routing: every expert is a choice of each token.
RoutingSettings EveryExpert(RoutingSettings settings, const Sizes& sizes) {
  settings.values[1] = std::max<int64_t>(static_cast<int64_t>(sizes['E']), 1);
  settings.values[2] = 0;
  return settings;
}

// Sets M of an op whose slots are P for each group.
void CheckSlots(Sizes& sizes) {
  const auto slots = static_cast<int64_t>(sizes['G'] * sizes['P']);
  if (sizes.has('M') && static_cast<int64_t>(sizes['M']) != slots) {
    throw OpError("M is " + std::to_string(sizes['M']) + ", but G * P is " + std::to_string(slots));
  }
  sizes.Set('M', slots);
}

}  // namespace

RoutingShape CheckCall(const Node& node, const RoutingSettings& settings, Sizes& sizes) {
  node.attributes.Check(sizes);
  if (node.spec->experts_choose()) return EveryExpert(settings, sizes).Shape(sizes);
  if (node.spec->routes()) return settings.Shape(sizes);
  if (sizes.has('G') && sizes.has('P')) CheckSlots(sizes);
  CheckNumbering(sizes);
  return {};
}

}  // namespace vmoe::ops
