#include "ops/node.h"

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

RoutingShape CheckCall(const Node& node, const RoutingSettings& settings, Sizes& sizes) {
  node.attributes.Check(sizes);
  if (node.spec->routes()) return settings.Shape(sizes);
  CheckNumbering(sizes);
  return {};
}

}  // namespace vmoe::ops
