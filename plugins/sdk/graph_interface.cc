#include "sdk/graph_interface.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "sdk/error.h"
#include "sdk/protobuf_fields.h"
#include "sdk/utf8.h"

namespace vmoe::sdk {

namespace {

// Element types, as TensorProto.DataType numbers them. Field numbers below are those of onnx.proto3, too.
constexpr uint64_t kFloat = 1, kUint8 = 2, kInt8 = 3, kInt32 = 6, kInt64 = 7, kBool = 9, kBfloat16 = 16;

// The highest version of an operator set that a graph may import: a runtime may count up to it one by one.
constexpr uint64_t kMaxOpset = 1000;

// An input, an output or an initializer of a graph.
struct Tensor {
  uint64_t element = 0;  // 0 where the graph doesn't say
  bool has_shape = false;
  std::vector<std::optional<uint64_t>> shape;  // nothing where a dimension varies

  bool operator==(const Tensor& other) const {
    return element == other.element && has_shape == other.has_shape && shape == other.shape;
  }
};

using Tensors = std::map<std::string, Tensor>;

// What the main graph of a model takes, gives and holds.
struct Interface {
  Tensors inputs, outputs, initializers;
};

Tensor tensor(uint64_t element, std::vector<std::optional<uint64_t>> shape) {
  return {element, true, std::move(shape)};
}

std::string type_name(uint64_t element) {
  switch (element) {
    case kFloat: return "float32";
    case kUint8: return "uint8";
    case kInt8: return "int8";
    case kInt32: return "int32";
    case kInt64: return "int64";
    case kBool: return "bool";
    case kBfloat16: return "bfloat16";
    default: return "type " + std::to_string(element);
  }
}

std::string words(const Tensor& tensor) {
  std::string shape;
  for (const auto& extent : tensor.shape) {
    shape += (shape.empty() ? "" : ",") + (extent ? std::to_string(*extent) : "N");
  }
  return type_name(tensor.element) + "[" + (tensor.has_shape ? shape : "?") + "]";
}

// The two fields of one message that matter. Runtimes would join or replace a field that stands there twice.
struct Pair {
  std::optional<std::string_view> first_payload, second_payload;
  std::optional<uint64_t> first_value, second_value;

  Pair(std::string_view bytes, uint32_t first, uint32_t second) {
    for (FieldReader fields(bytes); fields.next();) {
      if (!fields.payload() && !fields.value()) continue;
      if (fields.number() == first) set(first_payload, first_value, fields);
      if (fields.number() == second) set(second_payload, second_value, fields);
    }
  }

  bool has_first() const { return first_payload || first_value; }
  bool has_second() const { return second_payload || second_value; }

 private:
  static void set(std::optional<std::string_view>& payload, std::optional<uint64_t>& value, const FieldReader& fields) {
    if (payload || value) unreadable_model("field " + std::to_string(fields.number()) + " stands there twice");
    payload = fields.payload();
    value = fields.value();
  }
};

std::string text(const std::optional<std::string_view>& payload) {
  if (!payload) return "";
  if (!is_utf8(*payload)) unreadable_model("a name that is no text");
  return std::string(*payload);
}

// A Dimension: dim_value = 1 or dim_param = 2.
std::optional<uint64_t> read_extent(std::string_view bytes) {
  const Pair dimension(bytes, 1, 2);
  if (dimension.has_first() && dimension.has_second()) unreadable_model("a dimension that is a number and a name");
  return dimension.first_value;
}

// A ValueInfoProto: name = 1, type = 2, in that tensor_type = 1, in that elem_type = 1 and shape = 2.
std::pair<std::string, Tensor> read_value(std::string_view bytes) {
  const Pair value(bytes, 1, 2);
  const Pair type(value.second_payload.value_or(""), 1, 1);
  const Pair content(type.first_payload.value_or(""), 1, 2);
  Tensor tensor;
  tensor.element = content.first_value.value_or(0);
  tensor.has_shape = content.has_second();
  for (FieldReader fields(content.second_payload.value_or("")); fields.next();) {
    if (fields.number() == 1 && fields.payload()) tensor.shape.push_back(read_extent(*fields.payload()));
  }
  return {text(value.first_payload), tensor};
}

// A TensorProto: dims = 1, data_type = 2, name = 8.
std::pair<std::string, Tensor> read_initializer(std::string_view bytes) {
  Tensor tensor;
  tensor.has_shape = true;
  for (FieldReader fields(bytes); fields.next();) {
    if (fields.number() != 1) continue;
    if (fields.payload()) unreadable_model("packed dimensions");
    if (fields.value()) tensor.shape.emplace_back(*fields.value());
  }
  const Pair content(bytes, 2, 8);
  tensor.element = content.first_value.value_or(0);
  return {text(content.second_payload), tensor};
}

void add(Tensors& tensors, const std::pair<std::string, Tensor>& named) {
  if (!tensors.insert(named).second) unreadable_model(in_quotes(named.first) + " stands there twice");
}

// An OperatorSetIdProto: version = 2.
void check_opset(std::string_view bytes) {
  for (FieldReader fields(bytes); fields.next();) {
    if (fields.number() == 2 && fields.value().value_or(0) > kMaxOpset) {
      unreadable_model("an operator set of a version above " + std::to_string(kMaxOpset));
    }
  }
}

void read_graph(std::string_view bytes, Interface& interface) {
  for (FieldReader fields(bytes); fields.next();) {
    if (!fields.payload()) continue;
    if (fields.number() == 5) add(interface.initializers, read_initializer(*fields.payload()));
    if (fields.number() == 11) add(interface.inputs, read_value(*fields.payload()));
    if (fields.number() == 12) add(interface.outputs, read_value(*fields.payload()));
  }
}

Interface graph_interface(std::string_view model) {
  Interface interface;
  for (FieldReader parts(model); parts.next();) {
    if (!parts.payload()) continue;
    if (parts.number() == 8) check_opset(*parts.payload());
    if (parts.number() == 7) read_graph(*parts.payload(), interface);  // runtimes join them where there are several
    if (parts.number() == 25) {                                        // a FunctionProto
      for (FieldReader fields(*parts.payload()); fields.next();) {
        if (fields.number() == 9 && fields.payload()) check_opset(*fields.payload());
      }
    }
  }
  return interface;
}

Tensors expected_inputs(const Manifest& manifest, bool settings) {
  const auto extent = [](int64_t n) { return std::optional(static_cast<uint64_t>(n)); };
  const InputSpec& image = manifest.input;
  Tensors inputs{
      {kImageInput, tensor(image.dtype == VMOE_FLOAT32 ? kFloat : kUint8,
                           {std::nullopt, extent(image.height), extent(image.width), extent(image.channels)})}};
  for (const SettingField& field : kSettingFields) {
    if (!settings || (manifest.kind().settings() & field.bit) == 0) continue;
    const bool by_layer = field.bit == VMOE_SET_CAPACITY_RATIO;
    inputs[field.name] = tensor(kInt64, {by_layer ? manifest.moe_layers.size() : size_t{1}});
  }
  return inputs;
}

// What a graph gives of a MoE layer, by the name behind the layer's. A fixed graph is one for TensorRT, `k` what it is
// fixed to.
Tensors expected_routing(const RoutingRules& rules, bool fixed, std::optional<uint64_t> k) {
  const std::optional<uint64_t> tokens = rules.group_tokens, experts = rules.num_experts;
  if (fixed || rules.kind.old_graph) {
    return {{"slot", tensor(kInt32, {std::nullopt, tokens, k})}, {"weight", tensor(kFloat, {std::nullopt, tokens, k})}};
  }
  switch (rules.kind.code) {
    case VMOE_SOFT: {
      const Tensor shares = tensor(kFloat, {std::nullopt, tokens, experts, rules.kind.slots_per_expert});
      return {{"dispatch", shares}, {"combine", shares}};
    }
    case VMOE_EXPERTS_CHOICE:
      return {{"kept", tensor(kBool, {std::nullopt, tokens, experts})},
              {"weight", tensor(kFloat, {std::nullopt, tokens, experts})}};
    default:
      return {{"expert", tensor(kInt32, {std::nullopt, tokens, std::nullopt})},
              {"kept", tensor(kBool, {std::nullopt, tokens, std::nullopt})},
              {"weight", tensor(kFloat, {std::nullopt, tokens, std::nullopt})}};
  }
}

Tensors expected_outputs(const Manifest& manifest, bool fixed, std::optional<uint64_t> k) {
  std::vector<std::optional<uint64_t>> shape{std::nullopt};
  if (manifest.output == VMOE_MEMBERS) shape.emplace_back(manifest.ensemble_size());
  shape.emplace_back(manifest.output_size);
  Tensors outputs{{manifest.output_name(), tensor(kFloat, std::move(shape))}};
  if (!manifest.rules) return outputs;
  for (const auto& [name, tensor] : expected_routing(*manifest.rules, fixed, k)) {
    for (std::string layer : manifest.moe_layers) outputs[layer.append("/").append(name)] = tensor;
  }
  return outputs;
}

std::string names(const Tensors& tensors) {
  std::string list;
  for (const auto& [name, tensor] : tensors) list += ", " + name;
  return list.empty() ? list : list.substr(2);
}

void check_tensors(const std::string& graph, const char* verb, const Tensors& found, const Tensors& expected) {
  for (const auto& [name, tensor] : expected) {
    const auto entry = found.find(name);
    if (entry != found.end() && entry->second == tensor) continue;
    fail(VMOE_BUNDLE_ERROR, graph, " ", verb, " ", in_quotes(name), " as ",
         entry == found.end() ? "nothing" : words(entry->second), ", and by the manifest it is ", words(tensor));
  }
}

bool has_part(std::string_view name, std::string_view part) {
  return ("/" + std::string(name) + "/").find("/" + std::string(part) + "/") != std::string::npos;
}

// The element type that an initializer must have, or nothing where any will do: it is the kernel of no product.
std::optional<uint64_t> kernel_type(std::string_view name, vmoe_precision precision) {
  name = whole_name(name);
  const size_t slash = name.rfind('/');
  if (name.substr(slash == std::string_view::npos ? 0 : slash + 1) != "kernel") return std::nullopt;
  const auto parents = name.substr(0, slash == std::string_view::npos ? 0 : slash);
  if (precision == VMOE_FP32 || has_part(parents, "head") || has_part(parents, "pre_logits") ||
      has_part(parents, "Router")) {
    return kFloat;
  }
  if (precision == VMOE_BF16_EXPERTS) return has_part(parents, "Moe") ? kBfloat16 : kFloat;
  return precision == VMOE_INT8 ? kInt8 : kBfloat16;
}

// The block of a router's tensor, "Encoder/BLOCK/Moe/Router/" and the tensor's own name, or nothing.
std::optional<std::string> router_block(std::string_view name, std::string_view tensor) {
  constexpr std::string_view kBefore = "Encoder/", kMiddle = "/Moe/Router/";
  const size_t middle = name.find(kMiddle);
  if (name.substr(0, kBefore.size()) != kBefore || middle == std::string_view::npos) return std::nullopt;
  const std::string_view block = name.substr(kBefore.size(), middle - kBefore.size());
  if (name.substr(middle + kMiddle.size()) != tensor || !is_block(block)) return std::nullopt;
  return std::string(block);
}

// Whether a router is f32[D,E], or of Soft MoE f32[D,E,P].
bool is_router(const Tensor& tensor, const RoutingRules& rules) {
  const bool soft = rules.kind.code == VMOE_SOFT;
  if (tensor.element != kFloat || tensor.shape.size() != (soft ? 3 : 2)) return false;
  return tensor.shape[1] == static_cast<uint64_t>(rules.num_experts) &&
         (!soft || tensor.shape[2] == static_cast<uint64_t>(rules.kind.slots_per_expert));
}

void check_weights(const std::string& graph, const Tensors& initializers, const Manifest& manifest) {
  Tensors routers;
  const char* router_tensor = manifest.kind().code == VMOE_SOFT ? "mu" : "dense/kernel";
  for (const auto& [name, tensor] : initializers) {
    if (kernel_type(name, manifest.precision).value_or(tensor.element) != tensor.element) {
      fail(VMOE_BUNDLE_ERROR, graph, " has ", in_quotes(name), " in ", type_name(tensor.element),
           ", and the manifest says that the precision is ", manifest.precision_name());
    }
    if (const auto block = router_block(name, router_tensor)) routers[*block] = tensor;
  }
  const auto& layers = manifest.moe_layers;
  for (const auto& [block, router] : routers) {
    if (std::find(layers.begin(), layers.end(), block) == layers.end()) {
      fail(VMOE_BUNDLE_ERROR, graph, " has a router in ", in_quotes(block),
           ", which is not among the MoE layers of the manifest");
    }
  }
  if (!manifest.rules) return;
  for (const std::string& layer : layers) {
    const auto router = routers.find(layer);
    if (router == routers.end()) {
      fail(VMOE_BUNDLE_ERROR, graph, " has no router in ", in_quotes(layer),
           ", which the manifest names as a MoE layer");
    }
    if (!is_router(router->second, *manifest.rules)) {
      const int64_t slots = manifest.kind().slots_per_expert;
      fail(VMOE_BUNDLE_ERROR, graph, " has a router ", words(router->second), " in ", in_quotes(layer),
           ", and by the manifest there are ", manifest.rules->num_experts, " experts",
           slots > 0 ? " of " + std::to_string(slots) + " slots" : "");
    }
  }
}

}  // namespace

std::string_view whole_name(std::string_view name) {
  while (true) {
    const size_t end = name.find_last_not_of("0123456789");
    if (end == std::string_view::npos || end + 1 == name.size() || name[end] != '/') return name;
    name = name.substr(0, end);
  }
}

void check_graph(const std::string& name, std::string_view graph, const Manifest& manifest) {
  const auto fixed = std::find_if(manifest.tensorrt_graphs.begin(), manifest.tensorrt_graphs.end(),
                                  [&](const auto& entry) { return entry.second == name; });
  const bool is_fixed = fixed != manifest.tensorrt_graphs.end();
  if (name != kCanonicalGraph && name != kInlinedGraph && !is_fixed) return;
  Interface interface;
  try {
    interface = graph_interface(graph);
  } catch (const Error& error) {
    fail(error.code(), name, " is ", error.what());
  }
  const Profile* profile = is_fixed ? manifest.find_profile(fixed->first) : nullptr;
  const Tensors inputs = expected_inputs(manifest, !is_fixed);
  if (names(inputs) != names(interface.inputs)) {
    fail(VMOE_BUNDLE_ERROR, name, " takes ", in_quotes(names(interface.inputs)), ", and by the manifest it takes ",
         in_quotes(names(inputs)));
  }
  check_tensors(name, "takes", interface.inputs, inputs);
  check_tensors(
      name, "gives", interface.outputs,
      expected_outputs(manifest, is_fixed, profile == nullptr ? std::nullopt : std::optional<uint64_t>(profile->k)));
  check_weights(name, interface.initializers, manifest);
}

}  // namespace vmoe::sdk
