#include "tensorrt/plugin.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <optional>

#include "cuda/limits.h"
#include "tensorrt/element_types.h"
#include "tensorrt/log.h"

namespace vmoe::tensorrt {
namespace {

using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::IDimensionExpr;
using nvinfer1::PluginTensorDesc;
using ops::OpError;

constexpr int32_t kFailed = 1;

ops::Shape to_shape(const Dims& dims) {
  ops::Shape shape;
  shape.rank = dims.nbDims;
  std::copy_n(dims.d, std::clamp<int64_t>(shape.rank, 0, ops::Shape::kMaxRank), shape.sizes.begin());
  return shape;
}

// Returns a string with the name and the settings of the op. Besides the op and its settings, only the shapes and types
// of a node's tensors affect how long the node takes.
std::string describe(const ops::OpSpec& spec, const ops::Settings& settings) {
  std::string text = std::string(kNamespace) + "-" + spec.name + "-" + kVersion;
  for (const size_t setting : ops::needed_settings(spec)) {
    text += std::string("-") + ops::kSettings[setting].name + std::to_string(settings.known(setting));
  }
  return text;
}

std::vector<size_t> tensor_inputs(const ops::OpSpec& spec) {
  std::vector<size_t> inputs;
  for (size_t i = 0; i < spec.inputs.size(); ++i) {
    if (!spec.inputs[i].is_setting()) inputs.push_back(i);
  }
  return inputs;
}

const IDimensionExpr* known(const IDimensionExpr* expression) {
  if (!expression) throw OpError("TensorRT gave no expression for a size");
  return expression;
}

}  // namespace

// The settings are this plugin's only fields. All other attributes of the op have their default values.
Plugin::Plugin(const Op& op, const ops::Settings& settings)
    : op_(op),
      node_{&op.spec, ops::Attributes(op.spec, [](const char*) { return std::nullopt; }), settings,
            ops::Types(op.spec)},
      inputs_(tensor_inputs(op.spec)),
      description_(describe(op.spec, settings)) {
  for (const size_t setting : ops::needed_settings(op.spec)) {
    int32_t& value = field_values_[setting];
    value = static_cast<int32_t>(settings.known(setting));
    fields_.emplace_back(ops::kSettings[setting].name, &value, nvinfer1::PluginFieldType::kINT32, 1);
  }
  field_collection_.nbFields = static_cast<int32_t>(fields_.size());
  field_collection_.fields = fields_.data();
}

const ops::ValueSpec& Plugin::value_spec(size_t position) const {
  return position < inputs_.size() ? op_.spec.inputs[inputs_[position]] : op_.spec.outputs[position - inputs_.size()];
}

template <class Result, class Body>
Result Plugin::guarded(Result failed, Body body) const noexcept {
  char message[512];
  try {
    return body();
  } catch (const std::exception& error) {
    std::snprintf(message, sizeof(message), "%s: %s", op_.spec.name, error.what());
  }
  log_error(message);
  if (nvinfer1::IErrorRecorder* recorder = context_ ? context_->getErrorRecorder() : nullptr) {
    recorder->reportError(nvinfer1::ErrorCode::kFAILED_EXECUTION, message);
  }
  return failed;
}

void Plugin::check_counts(int32_t in_count, int32_t out_count) const {
  const size_t outputs = op_.spec.needed_outputs();
  if (in_count == static_cast<int32_t>(inputs_.size()) && out_count == static_cast<int32_t>(outputs)) return;
  std::string names;
  for (size_t i = 0; i < inputs_.size(); ++i) names += (i == 0 ? "" : ", ") + std::string(value_spec(i).name);
  throw OpError("it has " + std::to_string(inputs_.size()) + " inputs (" + names + ") and " + std::to_string(outputs) +
                " outputs, not " + std::to_string(in_count) + " and " + std::to_string(out_count) +
                (ops::routes(op_.spec) ? "; capacity, k and bpr are attributes here" : ""));
}

template <class ShapeOf>
RoutingShape Plugin::read_sizes(ShapeOf shape_of, ops::Sizes& sizes) const {
  for (size_t i = 0; i < inputs_.size(); ++i) sizes.add(value_spec(i), to_shape(shape_of(i)));
  const RoutingShape routing = ops::check_call(node_, node_.settings, sizes);
  if (ops::routes(op_.spec)) {
    if (const char* refusal = cuda::routing_refusal(routing)) {
      throw OpError(std::string(refusal) + "; here " + value_spec(0).name + " is " + shape_text(to_shape(shape_of(0))) +
                    ", k " + std::to_string(routing.choices) + " and capacity " + std::to_string(routing.capacity));
    }
  } else if (sizes.has('E') && (sizes['E'] < 1 || sizes['E'] > cuda::kMostExperts)) {
    throw OpError("there must be 1 to " + std::to_string(cuda::kMostExperts) + " experts, not " +
                  std::to_string(sizes['E']));
  } else if (sizes.has('K') && (sizes['K'] < 1 || sizes['K'] > cuda::kMostChoices)) {
    throw OpError("a token has 1 to " + std::to_string(cuda::kMostChoices) + " choices, not " +
                  std::to_string(sizes['K']));
  }
  return routing;
}

template <class TypeOf>
ops::Types Plugin::read_types(TypeOf type_of) const {
  ops::Types types(op_.spec);
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const std::optional<ElementType> type = element_type_of(type_of(i));
    if (!type)
      throw types.refusal(value_spec(i), "TensorRT's type " + std::to_string(static_cast<int32_t>(type_of(i))));
    types.add(value_spec(i), *type);
  }
  return types;
}

nvinfer1::IPluginCapability* Plugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* Plugin::clone() noexcept { return attachToContext(nullptr); }

nvinfer1::IPluginV3* Plugin::attachToContext(nvinfer1::IPluginResourceContext* context) noexcept {
  return guarded<nvinfer1::IPluginV3*>(nullptr, [&] {
    auto attached = std::make_unique<Plugin>(op_, node_.settings);
    attached->context_ = context;
    return attached.release();
  });
}

int32_t Plugin::configurePlugin(const DynamicPluginTensorDesc* in, int32_t in_count, const DynamicPluginTensorDesc*,
                                int32_t out_count) noexcept {
  return guarded(kFailed, [&] {
    check_counts(in_count, out_count);
    ops::Sizes sizes;
    read_sizes([&](size_t i) -> const Dims& { return in[i].max; }, sizes);
    return 0;
  });
}

int32_t Plugin::getOutputDataTypes(DataType* output_types, int32_t out_count, const DataType* input_types,
                                   int32_t in_count) const noexcept {
  return guarded(kFailed, [&] {
    check_counts(in_count, out_count);
    const ops::Types types = read_types([&](size_t i) { return input_types[i]; });
    for (size_t i = 0; i < op_.spec.needed_outputs(); ++i)
      output_types[i] = data_type_of(types[op_.spec.outputs[i].type]);
    return 0;
  });
}

int32_t Plugin::getOutputShapes(const DimsExprs* inputs, int32_t in_count, const DimsExprs*, int32_t,
                                DimsExprs* outputs, int32_t out_count, nvinfer1::IExprBuilder& builder) noexcept {
  return guarded(kFailed, [&] {
    check_counts(in_count, out_count);
    // Returns the expression for the size of dimension `dim`, or null if no input has that dimension.
    const auto input_size = [&](char dim) -> const IDimensionExpr* {
      for (size_t i = 0; i < inputs_.size(); ++i) {
        if (const char* found = std::strchr(value_spec(i).dims, dim)) return inputs[i].d[found - value_spec(i).dims];
      }
      return nullptr;
    };
    for (size_t i = 0; i < inputs_.size(); ++i) {
      const size_t rank = std::strlen(value_spec(i).dims);
      if (inputs[i].nbDims != static_cast<int32_t>(rank)) {
        throw OpError(std::string(value_spec(i).name) + " has " + std::to_string(inputs[i].nbDims) +
                      " dimensions, not the " + std::to_string(rank) + " dimensions " + value_spec(i).dims);
      }
    }
    for (size_t i = 0; i < op_.spec.needed_outputs(); ++i) {
      outputs[i].nbDims = 0;
      for (const char* dim = op_.spec.outputs[i].dims; *dim; ++dim) {
        const IDimensionExpr* size = input_size(*dim);
        if (!size && *dim == 'K') size = builder.constant(node_.settings.known(ops::Setting::kK));
        if (!size && *dim == 'M') {  // G * capacity; computing it from sizes would not round as the exporter does
          const IDimensionExpr* capacity = known(builder.constant(node_.settings.known(ops::Setting::kCapacity)));
          size = builder.operation(nvinfer1::DimensionOperation::kPROD, *known(input_size('G')), *capacity);
        }
        outputs[i].d[outputs[i].nbDims++] = known(size);
      }
    }
    return 0;
  });
}

bool Plugin::supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* in_out, int32_t in_count,
                                       int32_t out_count) noexcept {
  return guarded(false, [&] {
    check_counts(in_count, out_count);
    if (position < 0 || position >= in_count + out_count) return false;
    if (in_out[position].desc.format != nvinfer1::PluginFormat::kLINEAR) return false;
    ops::Types types(op_.spec);
    for (size_t i = 0; i <= static_cast<size_t>(position); ++i) {
      const std::optional<ElementType> type = element_type_of(in_out[i].desc.type);
      if (!type || !types.takes(value_spec(i), *type)) return false;
      types.add(value_spec(i), *type);
    }
    return true;
  });
}

size_t Plugin::getWorkspaceSize(const DynamicPluginTensorDesc* inputs, int32_t in_count, const DynamicPluginTensorDesc*,
                                int32_t out_count) const noexcept {
  return guarded<size_t>(0, [&]() -> size_t {
    check_counts(in_count, out_count);
    ops::Sizes sizes;
    const RoutingShape routing = read_sizes([&](size_t i) -> const Dims& { return inputs[i].max; }, sizes);
    return ops::routes(op_.spec) ? op_.workspace_bytes(routing) : 0;
  });
}

int32_t Plugin::onShapeChange(const PluginTensorDesc* in, int32_t in_count, const PluginTensorDesc*,
                              int32_t out_count) noexcept {
  return guarded(kFailed, [&] {
    check_counts(in_count, out_count);
    ops::Sizes sizes;
    read_sizes([&](size_t i) -> const Dims& { return in[i].dims; }, sizes);
    return 0;
  });
}

int32_t Plugin::enqueue(const PluginTensorDesc* in, const PluginTensorDesc*, const void* const* inputs,
                        void* const* outputs, void* workspace, cudaStream_t stream) noexcept {
  return guarded(kFailed, [&] {
    ops::Sizes sizes;
    const RoutingShape routing = read_sizes([&](size_t i) -> const Dims& { return in[i].dims; }, sizes);
    const ops::Types types = read_types([&](size_t i) { return in[i].type; });
    cuda::OpCall call{routing, sizes, types[ops::ValueType::kT], {}, {}, workspace, stream};
    for (size_t i = 0; i < inputs_.size(); ++i) call.inputs[inputs_[i]] = inputs[i];
    std::copy_n(outputs, op_.spec.needed_outputs(), call.outputs.begin());
    const cudaError_t error = op_.put(call);
    if (error != cudaSuccess) {
      throw OpError(std::string("its work could not be put on the stream: ") + cudaGetErrorString(error) + " (" +
                    cudaGetErrorName(error) + ")");
    }
    return 0;
  });
}

}  // namespace vmoe::tensorrt
