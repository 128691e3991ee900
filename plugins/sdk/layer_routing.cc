#include "sdk/layer_routing.h"

#include <functional>
#include <numeric>

#include "sdk/error.h"

namespace vmoe::sdk {

namespace {

constexpr ONNXTensorElementDataType dtype_of(const int32_t*) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32; }
constexpr ONNXTensorElementDataType dtype_of(const uint8_t*) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL; }
constexpr ONNXTensorElementDataType dtype_of(const float*) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; }

// Calls `visit` with each output that the kind gives of a layer: its name behind the layer's own, and its values.
template <typename Visit>
void for_each_output(LayerRouting& routing, const Visit& visit) {
  if (routing.kind.old_graph) {
    visit("slot", routing.slot);
    visit("weight", routing.weight);
    return;
  }
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
}

// Copies an output whose extents are those of the routing, or sets them where it is the first one.
template <typename T>
void read(const OutputTensor& output, const std::string& name, LayerRouting& routing, std::vector<T>& values) {
  std::vector<int64_t> shape;
  const auto* data = static_cast<const T*>(output.data(dtype_of(values.data()), name, shape));
  const bool soft = routing.kind.code == VMOE_SOFT;
  const bool ranked = shape.size() == (soft ? 4 : 3);
  if (ranked && routing.groups == 0) {
    routing.groups = shape[0];
    routing.choices = soft ? 0 : shape[2];
  }
  std::vector<int64_t> expected{routing.groups, routing.tokens, routing.choices};
  if (soft) expected = {routing.groups, routing.tokens, routing.experts, routing.kind.slots_per_expert};
  if (!ranked || shape != expected) {
    fail(VMOE_RUNTIME_ERROR, "the graph's output ", in_quotes(name),
         " has another shape than its other outputs and the ", "manifest say");
  }
  values.assign(data, data + std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>()));
}

// What later graphs give, from flat indices e * M + p of places; M are an expert's places for all groups.
void derive_from_slots(LayerRouting& routing, int64_t places) {
  for (const int32_t slot : routing.slot) {
    routing.kept.push_back(slot >= 0 ? 1 : 0);
    routing.expert.push_back(slot >= 0 ? static_cast<int32_t>(slot / places) : -1);
  }
}

}  // namespace

std::vector<std::string> routing_outputs(const Manifest& manifest) {
  LayerRouting routing;
  routing.kind = manifest.kind();
  std::vector<std::string> names;
  for (const std::string& layer : manifest.moe_layers) {
    for_each_output(routing, [&](const char* name, const auto&) { names.push_back(layer + "/" + name); });
  }
  return names;
}

std::vector<LayerRouting> read_routing(const std::vector<OutputTensor>& outputs, const Manifest& manifest,
                                       const std::optional<Profile>& setting) {
  std::vector<LayerRouting> layers;
  if (!manifest.rules) return layers;
  auto output = outputs.begin();
  for (size_t i = 0; i < manifest.moe_layers.size(); ++i) {
    LayerRouting routing;
    routing.layer = manifest.moe_layers[i];
    routing.kind = manifest.kind();
    routing.tokens = manifest.rules->group_tokens;
    routing.experts = manifest.rules->num_experts;
    for_each_output(
        routing, [&](const char* name, auto& values) { read(*output++, routing.layer + "/" + name, routing, values); });
    if (routing.kind.old_graph && setting) derive_from_slots(routing, routing.groups * setting->capacity[i]);
    layers.push_back(std::move(routing));
  }
  return layers;
}

}  // namespace vmoe::sdk
