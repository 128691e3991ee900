#include "sdk/layer_routing.h"

#include <functional>
#include <numeric>
#include <utility>

#include "sdk/error.h"

namespace vmoe::sdk {

namespace {

constexpr ONNXTensorElementDataType dtype_of(const int32_t*) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32; }
constexpr ONNXTensorElementDataType dtype_of(const uint8_t*) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL; }
constexpr ONNXTensorElementDataType dtype_of(const float*) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; }

// Calls `visit` with each output that the kind has of a layer: its name behind the layer's own, and its values.
template <typename Visit>
void for_each_output(LayerRouting& routing, bool merges, const Visit& visit) {
  switch (routing.kind.code) {
    case VMOE_TOP_K: visit("expert", routing.expert); [[fallthrough]];
    case VMOE_EXPERTS_CHOICE:
      visit("kept", routing.kept);
      visit("weight", routing.weight);
      break;
    case VMOE_SOFT:
      visit("dispatch", routing.dispatch);
      visit("combine", routing.combine);
      break;
    case VMOE_DENSE: break;
  }
  if (merges && routing.kind.image_tokens > 0) visit("token", routing.token);
}

// The routing of a layer as far as the manifest says: groups, and top-k's choices, vary.
LayerRouting layer_of(const Manifest& manifest, size_t index, bool merges) {
  LayerRouting routing;
  routing.layer = manifest.moe_layers[index];
  routing.kind = manifest.kind();
  routing.groups = -1;
  if (manifest.rules) {
    routing.tokens = merges && routing.kind.image_tokens > 0 ? -1 : manifest.rules->group_tokens;
    routing.experts = manifest.rules->experts[index];
    if (routing.kind.image_tokens > 0) {
      routing.group_images = manifest.rules->group_tokens / routing.kind.image_tokens;
    }
  }
  routing.choices = routing.kind.code == VMOE_EXPERTS_CHOICE ? routing.experts
                    : routing.kind.code == VMOE_SOFT         ? 0
                                                             : -1;
  return routing;
}

// Of one of its outputs, where `values` go; negative for what varies.
std::vector<int64_t> shape_of(const LayerRouting& routing, const void* values) {
  if (values == &routing.token) return {routing.groups * routing.group_images, routing.kind.image_tokens};
  if (routing.kind.code != VMOE_SOFT) return {routing.groups, routing.tokens, routing.choices};
  return {routing.groups, routing.tokens, routing.experts, routing.kind.slots_per_expert};
}

// Copies an output whose extents are those of the routing, or sets what varies where it is the first one.
template <typename T>
void read(const OutputTensor& output, const std::string& name, LayerRouting& routing, std::vector<T>& values) {
  std::vector<int64_t> shape;
  const auto* data = static_cast<const T*>(output.data(shape));
  if (shape.size() == shape_of(routing, &values).size()) {
    if (routing.groups < 0) routing.groups = shape[0];
    if (routing.tokens < 0) routing.tokens = shape[1];
    if (routing.choices < 0) routing.choices = shape[2];
  }
  if (shape != shape_of(routing, &values)) {
    fail(VMOE_RUNTIME_ERROR, "the graph's output ", in_quotes(name),
         " has another shape than its other outputs and the manifest say");
  }
  values.assign(data, data + std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>()));
}

}  // namespace

std::vector<std::string> routing_outputs(const Manifest& manifest, bool merges) {
  LayerRouting routing;
  routing.kind = manifest.kind();
  std::vector<std::string> names;
  for (const std::string& layer : manifest.moe_layers) {
    for_each_output(routing, merges, [&](const char* name, const auto&) { names.push_back(layer + "/" + name); });
  }
  return names;
}

Ports layer_ports(const Manifest& manifest, bool merges) {
  Ports ports;
  for (size_t i = 0; i < manifest.moe_layers.size(); ++i) {
    LayerRouting routing = layer_of(manifest, i, merges);
    for_each_output(routing, merges, [&](const char* name, const auto& values) {
      ports[routing.layer + "/" + name] = {dtype_of(values.data()), shape_of(routing, &values)};
    });
  }
  return ports;
}

std::vector<LayerRouting> read_routing(const std::vector<OutputTensor>& outputs, const Manifest& manifest,
                                       bool merges) {
  std::vector<LayerRouting> layers;
  auto output = outputs.begin();
  for (size_t i = 0; i < manifest.moe_layers.size(); ++i) {
    LayerRouting routing = layer_of(manifest, i, merges);
    for_each_output(routing, merges, [&](const char* name, auto& values) {
      read(*output++, routing.layer + "/" + name, routing, values);
    });
    if (!merges && routing.kind.image_tokens > 0) {  // every token is where it was
      routing.token.resize(routing.groups * routing.group_images * routing.kind.image_tokens);
      for (size_t place = 0; place < routing.token.size(); ++place) {
        routing.token[place] = static_cast<int32_t>(place % routing.kind.image_tokens);
      }
    }
    layers.push_back(std::move(routing));
  }
  return layers;
}

}  // namespace vmoe::sdk
