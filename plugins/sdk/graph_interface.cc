#include "sdk/graph_interface.h"

#include <utility>
#include <vector>

#include "sdk/error.h"
#include "sdk/generated/setting_rows.h"
#include "sdk/layer_routing.h"

namespace vmoe::sdk {

namespace {

std::string type_name(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return "float32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return "uint8";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32: return "int32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64: return "int64";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL: return "bool";
    default: return "type " + std::to_string(type);
  }
}

std::string words(const Port& port) {
  std::string shape;
  for (const int64_t extent : port.shape)
    shape += (shape.empty() ? "" : ",") + (extent < 0 ? "N" : std::to_string(extent));
  return type_name(port.type) + "[" + shape + "]";
}

// Returns whether two ports match. They must have the same type and rank. If both have a fixed extent in a dimension,
// the two extents must be equal.
bool suits(const Port& found, const Port& expected) {
  bool same = found.type == expected.type && found.shape.size() == expected.shape.size();
  for (size_t i = 0; same && i < found.shape.size(); ++i) {
    same = found.shape[i] == expected.shape[i] || found.shape[i] < 0 || expected.shape[i] < 0;
  }
  return same;
}

Ports expected_inputs(const Manifest& manifest, bool merges) {
  const vmoe_info& info = manifest.info;
  const auto type =
      info.input_dtype == VMOE_FLOAT32 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
  Ports inputs{{kImageInput, {type, {-1, info.height, info.width, info.channels}}}};
  for (const SettingRow& row : kSettingRows) {
    if ((manifest.rules.settings() & row.bit) == 0 || (row.merging && !merges)) continue;
    const size_t count = row.bit == VMOE_SET_CAPACITY_RATIO ? manifest.moe_layers.size() : 1;
    inputs[row.name] = {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, {static_cast<int64_t>(count)}};
  }
  return inputs;
}

void check_ports(const std::string& graph, const char* verb, const Ports& found, const Ports& expected) {
  for (const auto& [name, port] : expected) {
    const auto entry = found.find(name);
    if (entry != found.end() && suits(entry->second, port)) continue;
    fail(VMOE_BUNDLE_ERROR, graph, " ", verb, " ", in_quotes(name), " as ",
         entry == found.end() ? "nothing" : words(entry->second), ", and by the manifest it is ", words(port));
  }
}

}  // namespace

void check_interface(const std::string& graph, const Session& session, const Manifest& manifest, bool merges) {
  const Ports inputs = expected_inputs(manifest, merges);
  if (names(inputs) != names(session.inputs())) {
    fail(VMOE_BUNDLE_ERROR, graph, " takes ", in_quotes(names(session.inputs())), ", and by the manifest it takes ",
         in_quotes(names(inputs)));
  }
  check_ports(graph, "takes", session.inputs(), inputs);
  const auto of_layers = layer_ports(manifest, merges);
  Ports outputs(of_layers.begin(), of_layers.end());
  for (const GraphOutput& output : manifest.outputs) {
    Port& port = outputs[output.name] = {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, output.shape};
    port.shape.insert(port.shape.begin(), -1);
  }
  check_ports(graph, "outputs", session.outputs(), outputs);
}

}  // namespace vmoe::sdk
