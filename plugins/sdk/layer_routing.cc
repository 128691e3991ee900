#include "sdk/layer_routing.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <string_view>

#include "sdk/error.h"

namespace vmoe::sdk {

namespace {

constexpr ONNXTensorElementDataType dtype_of(const int32_t*) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32; }
constexpr ONNXTensorElementDataType dtype_of(const uint8_t*) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL; }
constexpr ONNXTensorElementDataType dtype_of(const float*) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; }

// Calls visit(name, pointer) for each routing output of a layer. `routing.kind` determines which outputs the layer has.
// `name` is the output's name without the layer's name in front. `pointer` is the field of `routing` that receives the
// values.
template <typename Visit>
void for_each_output(vmoe_layer_routing& routing, bool merges, const Visit& visit) {
  switch (routing.kind) {
    case VMOE_TOP_K: visit("expert", routing.expert); [[fallthrough]];
    case VMOE_EXPERTS_CHOICE:
      visit("kept", routing.kept);
      visit("weight", routing.weight);
      break;
    case VMOE_SOFT:
      visit("dispatch", routing.dispatch);
      visit("combine", routing.combine);
      break;
    default: break;
  }
  if (merges && routing.image_tokens > 0) visit("token", routing.token);
}

// Returns a layer's routing with the sizes that the manifest determines. Sizes that vary between calls are set to -1.
// The number of groups always varies. The number of choices also varies for top-k, and the number of tokens varies if
// tokens can be merged.
vmoe_layer_routing layer_of(const Manifest& manifest, size_t index, bool merges) {
  const RoutingRules& rules = manifest.rules;
  vmoe_layer_routing routing = VMOE_LAYER_ROUTING_INIT;
  routing.kind = rules.kind;
  routing.groups = -1;
  routing.tokens = merges && rules.image_tokens > 0 ? -1 : rules.group_tokens;
  routing.experts = rules.experts[index];
  routing.choices = rules.kind == VMOE_EXPERTS_CHOICE ? routing.experts : rules.kind == VMOE_SOFT ? 0 : -1;
  routing.slots = rules.slots_per_expert;
  routing.image_tokens = rules.image_tokens;
  return routing;
}

// Returns the shape of a layer's output `name`. Extents that vary between calls are negative.
std::vector<int64_t> shape_of(const vmoe_layer_routing& routing, std::string_view name, const RoutingRules& rules) {
  if (name == "token") {
    return {routing.groups * (rules.group_tokens / rules.image_tokens), routing.image_tokens};
  }
  if (routing.kind != VMOE_SOFT) return {routing.groups, routing.tokens, routing.choices};
  return {routing.groups, routing.tokens, routing.experts, routing.slots};
}

// Copies the values of a layer's output `name`, and points `values` to the copy. Also sets the sizes in layer.routing
// that were not known before. Throws VMOE_RUNTIME_ERROR if the output has a wrong shape.
template <typename T>
void read(const OutputTensor& output, const char* name, const RoutingRules& rules, LayerRouting& layer,
          const T*& values) {
  vmoe_layer_routing& routing = layer.routing;
  std::vector<int64_t> shape;
  const auto* data = static_cast<const unsigned char*>(output.data(shape));
  if (shape.size() == shape_of(routing, name, rules).size()) {
    if (routing.groups < 0) routing.groups = shape[0];
    if (routing.tokens < 0) routing.tokens = shape[1];
    if (routing.choices < 0) routing.choices = shape[2];
  }
  if (shape != shape_of(routing, name, rules)) {
    fail(VMOE_RUNTIME_ERROR, "the graph's output ", in_quotes(layer.name + "/" + name),
         " has another shape than its other outputs and the manifest say");
  }
  const auto count = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  const auto& copy = layer.values.emplace_back(data, data + static_cast<size_t>(count) * sizeof(T));
  values = reinterpret_cast<const T*>(copy.data());
}

// Refuses indices of experts or tokens that do not exist. With such an index, a caller would read out of bounds.
void check_range(const int32_t* values, int64_t count, int64_t limit, const std::string& layer) {
  const auto is_outside = [&](int32_t value) { return value < 0 || value >= limit; };
  if (values != nullptr && std::any_of(values, values + count, is_outside)) {
    fail(VMOE_RUNTIME_ERROR, "the graph's outputs of ", layer, " name an expert or a token that isn't there");
  }
}

}  // namespace

std::vector<std::pair<std::string, Port>> layer_ports(const Manifest& manifest, bool merges) {
  std::vector<std::pair<std::string, Port>> ports;
  for (size_t i = 0; i < manifest.moe_layers.size(); ++i) {
    vmoe_layer_routing routing = layer_of(manifest, i, merges);
    for_each_output(routing, merges, [&](const char* name, const auto& values) {
      const Port port{dtype_of(values), shape_of(routing, name, manifest.rules)};
      ports.emplace_back(manifest.moe_layers[i] + "/" + name, port);
    });
  }
  return ports;
}

std::vector<LayerRouting> read_routing(const std::vector<OutputTensor>& outputs, const Manifest& manifest,
                                       bool merges) {
  const RoutingRules& rules = manifest.rules;
  std::vector<LayerRouting> layers;
  auto output = outputs.begin();
  for (size_t i = 0; i < manifest.moe_layers.size(); ++i) {
    LayerRouting layer{manifest.moe_layers[i], layer_of(manifest, i, merges), {}};
    vmoe_layer_routing& routing = layer.routing;
    for_each_output(routing, merges,
                    [&](const char* name, auto& values) { read(*output++, name, rules, layer, values); });
    const int64_t tokens = routing.groups * routing.tokens;
    check_range(routing.expert, tokens * routing.choices, routing.experts, layer.name);
    if (routing.token != nullptr && tokens > 0) {
      const int64_t images = routing.groups * (rules.group_tokens / rules.image_tokens);
      check_range(routing.token, images * rules.image_tokens, tokens / images, layer.name);
    }
    if (!merges && rules.image_tokens > 0) {  // without merging, every token keeps its position
      const auto count = static_cast<size_t>(routing.groups * rules.group_tokens);
      auto& bytes = layer.values.emplace_back(count * sizeof(int32_t));
      auto* token = reinterpret_cast<int32_t*>(bytes.data());
      for (size_t place = 0; place < count; ++place) token[place] = static_cast<int32_t>(place % rules.image_tokens);
      routing.token = token;
    }
    layers.push_back(std::move(layer));
  }
  return layers;
}

}  // namespace vmoe::sdk
