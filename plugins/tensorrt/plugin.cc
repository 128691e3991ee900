#include "tensorrt/plugin.h"

#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>

#include "tensorrt/log.h"
#include "tensorrt/op_error.h"

namespace vmoe::tensorrt {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::IDimensionExpr;
using nvinfer1::PluginTensorDesc;

constexpr int32_t kFailed = 1;

bool IsFloatingPoint(DataType type) {
  return type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16;
}

// Names the op and its settings: what a node's timing depends on besides its shapes and types.
std::string Description(const OpSpec& op, const Settings& settings) {
  std::string text = std::string(kNamespace) + "-" + op.name + "-" + kVersion;
  if (op.routes()) {
    text += "-capacity" + std::to_string(settings.capacity()) + "-k" + std::to_string(settings.k()) + "-bpr" +
            std::to_string(settings.bpr() ? 1 : 0);
  }
  return text;
}

const ValueSpec& Value(const OpSpec& op, size_t position) {
  return position < op.input_count ? op.inputs[position] : op.outputs[position - op.input_count];
}

// Whether the value at `position`, inputs first and then outputs, may have `type`. `type_of(i)` are the values before
// it.
template <class TypeOf>
bool Accepts(const OpSpec& op, size_t position, DataType type, TypeOf type_of) {
  const ValueType wanted = Value(op, position).type;
  if (wanted == ValueType::kInt32) return type == DataType::kINT32;
  if (wanted == ValueType::kWeight && type == DataType::kFLOAT) return true;
  const ValueType like = wanted == ValueType::kWeight ? ValueType::kTokens : wanted;
  for (size_t i = 0; i < position; ++i) {
    if (Value(op, i).type == like) return type == type_of(i);
  }
  return IsFloatingPoint(type);
}

// The input dimension with this letter; null if there is none.
const IDimensionExpr* InputDimension(const OpSpec& op, const DimsExprs* inputs, char dim) {
  for (size_t i = 0; i < op.input_count; ++i) {
    if (const char* found = std::strchr(op.inputs[i].dims, dim)) return inputs[i].d[found - op.inputs[i].dims];
  }
  return nullptr;
}

const IDimensionExpr* Known(const IDimensionExpr* expression) {
  if (!expression) throw OpError("TensorRT gave no expression for a size");
  return expression;
}

void CheckNumbering(const Sizes& sizes, const char* dims, const char* what) {
  size_t count = 1;
  for (const char* dim = dims; *dim; ++dim) {
    if (!sizes.has(*dim)) return;
    if (sizes[*dim] > 0 && count > INT32_MAX / sizes[*dim]) {
      throw OpError(std::string(what) + " are numbered in 32 bits, and here they are too many");
    }
    count *= sizes[*dim];
  }
}

}  // namespace

cuda::Type Call::type(size_t input) const {
  switch (descs[input].type) {
    case DataType::kHALF: return cuda::Type::kFloat16;
    case DataType::kBF16: return cuda::Type::kBfloat16;
    default: return cuda::Type::kFloat32;
  }
}

Plugin::Plugin(const OpSpec& op, const Settings& settings)
    : op_(op), settings_(settings), description_(Description(op, settings)) {
  for (size_t i = 0; i < Settings::kCount; ++i) {
    fields_[i] = nvinfer1::PluginField(Settings::kNames[i], &settings_.values[i], nvinfer1::PluginFieldType::kINT32, 1);
  }
  field_collection_.nbFields = op.routes() ? static_cast<int32_t>(Settings::kCount) : 0;
  field_collection_.fields = fields_.data();
}

template <class Result, class Body>
Result Plugin::Guarded(Result failed, Body body) const noexcept {
  char sentence[512];
  try {
    return body();
  } catch (const std::exception& error) {
    std::snprintf(sentence, sizeof(sentence), "%s: %s", op_.name, error.what());
  } catch (...) {
    std::snprintf(sentence, sizeof(sentence), "%s: unknown error", op_.name);
  }
  LogError(sentence);
  if (nvinfer1::IErrorRecorder* recorder = context_ ? context_->getErrorRecorder() : nullptr) {
    recorder->reportError(nvinfer1::ErrorCode::kFAILED_EXECUTION, sentence);
  }
  return failed;
}

void Plugin::CheckCounts(int32_t in_count, int32_t out_count) const {
  if (in_count == static_cast<int32_t>(op_.input_count) && out_count == static_cast<int32_t>(op_.output_count)) return;
  std::string names = op_.inputs[0].name;
  for (size_t i = 1; i < op_.input_count; ++i) names += std::string(", ") + op_.inputs[i].name;
  throw OpError("it has " + std::to_string(op_.input_count) + " inputs (" + names + ") and " +
                std::to_string(op_.output_count) + " outputs, not " + std::to_string(in_count) + " and " +
                std::to_string(out_count) + (op_.routes() ? "; capacity, k and bpr are attributes here" : ""));
}

template <class ShapeOf>
Sizes Plugin::ReadSizes(ShapeOf shape_of) const {
  Sizes sizes;
  for (size_t i = 0; i < op_.input_count; ++i) sizes.Add(op_.inputs[i].name, op_.inputs[i].dims, shape_of(i));
  if (op_.routes()) {
    sizes.Set('K', static_cast<size_t>(settings_.k()));
    sizes.Set('M', sizes['G'] * static_cast<size_t>(settings_.capacity()));
  }
  CheckNumbering(sizes, "EM", "places");
  CheckNumbering(sizes, "GSK", "tokens and their choices");
  if (op_.routes()) {
    if (const char* refusal = cuda::RoutingRefusal(settings_.Shape(sizes))) {
      throw OpError(std::string(refusal) + "; here " + op_.inputs[0].name + " is " + ShapeText(shape_of(0)) + ", k " +
                    std::to_string(settings_.k()) + " and capacity " + std::to_string(settings_.capacity()));
    }
  } else if (sizes.has('K') && (sizes['K'] < 1 || sizes['K'] > cuda::kMaxChoices)) {
    throw OpError("a token has 1 to " + std::to_string(cuda::kMaxChoices) + " choices, not " +
                  std::to_string(sizes['K']));
  }
  return sizes;
}

nvinfer1::IPluginCapability* Plugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* Plugin::clone() noexcept {
  return Guarded<nvinfer1::IPluginV3*>(nullptr, [&] { return std::make_unique<Plugin>(op_, settings_).release(); });
}

nvinfer1::IPluginV3* Plugin::attachToContext(nvinfer1::IPluginResourceContext* context) noexcept {
  return Guarded<nvinfer1::IPluginV3*>(nullptr, [&] {
    auto attached = std::make_unique<Plugin>(op_, settings_);
    attached->context_ = context;
    return attached.release();
  });
}

int32_t Plugin::configurePlugin(const DynamicPluginTensorDesc* in, int32_t in_count, const DynamicPluginTensorDesc*,
                                int32_t out_count) noexcept {
  return Guarded(kFailed, [&] {
    CheckCounts(in_count, out_count);
    ReadSizes([&](size_t i) -> const Dims& { return in[i].max; });
    return 0;
  });
}

int32_t Plugin::getOutputDataTypes(DataType* output_types, int32_t out_count, const DataType* input_types,
                                   int32_t in_count) const noexcept {
  return Guarded(kFailed, [&] {
    CheckCounts(in_count, out_count);
    for (size_t i = 0; i < op_.input_count; ++i) {
      if (!Accepts(op_, i, input_types[i], [&](size_t before) { return input_types[before]; })) {
        throw OpError(std::string(op_.inputs[i].name) + " can't have TensorRT's type " +
                      std::to_string(static_cast<int32_t>(input_types[i])) +
                      "; gates and tokens are float32, float16 or bfloat16, slot and src int32, and the weight that "
                      "VmoeCombine takes is float32 or of the tokens' type");
      }
    }
    for (size_t i = 0; i < op_.output_count; ++i) {
      output_types[i] = DataType::kINT32;
      for (size_t j = 0; j < op_.input_count; ++j) {
        if (op_.inputs[j].type == op_.outputs[i].type) output_types[i] = input_types[j];
      }
    }
    return 0;
  });
}

int32_t Plugin::getOutputShapes(const DimsExprs* inputs, int32_t in_count, const DimsExprs*, int32_t,
                                DimsExprs* outputs, int32_t out_count, nvinfer1::IExprBuilder& builder) noexcept {
  return Guarded(kFailed, [&] {
    CheckCounts(in_count, out_count);
    for (size_t i = 0; i < op_.input_count; ++i) {
      const size_t rank = std::strlen(op_.inputs[i].dims);
      if (inputs[i].nbDims != static_cast<int32_t>(rank)) {
        throw OpError(std::string(op_.inputs[i].name) + " must have " + std::to_string(rank) + " dimensions, not " +
                      std::to_string(inputs[i].nbDims));
      }
    }
    for (size_t i = 0; i < op_.output_count; ++i) {
      outputs[i].nbDims = 0;
      for (const char* dim = op_.outputs[i].dims; *dim; ++dim) {
        const IDimensionExpr* size = InputDimension(op_, inputs, *dim);
        if (!size && *dim == 'K') size = builder.constant(settings_.k());
        if (!size && *dim == 'M') {  // the integer itself: a ratio of sizes would round otherwise than the exporter
          const IDimensionExpr* capacity = Known(builder.constant(settings_.capacity()));
          size = builder.operation(nvinfer1::DimensionOperation::kPROD, *Known(InputDimension(op_, inputs, 'G')),
                                   *capacity);
        }
        outputs[i].d[outputs[i].nbDims++] = Known(size);
      }
    }
    return 0;
  });
}

bool Plugin::supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* in_out, int32_t in_count,
                                       int32_t out_count) noexcept {
  return Guarded(false, [&] {
    CheckCounts(in_count, out_count);
    if (position < 0 || position >= in_count + out_count) return false;
    const PluginTensorDesc& desc = in_out[position].desc;
    return desc.format == nvinfer1::PluginFormat::kLINEAR &&
           Accepts(op_, static_cast<size_t>(position), desc.type, [&](size_t i) { return in_out[i].desc.type; });
  });
}

size_t Plugin::getWorkspaceSize(const DynamicPluginTensorDesc* inputs, int32_t in_count, const DynamicPluginTensorDesc*,
                                int32_t out_count) const noexcept {
  return Guarded<size_t>(0, [&]() -> size_t {
    CheckCounts(in_count, out_count);
    const Sizes sizes = ReadSizes([&](size_t i) -> const Dims& { return inputs[i].max; });
    return op_.routes() ? op_.workspace_bytes(settings_.Shape(sizes)) : 0;
  });
}

int32_t Plugin::onShapeChange(const PluginTensorDesc* in, int32_t in_count, const PluginTensorDesc*,
                              int32_t out_count) noexcept {
  return Guarded(kFailed, [&] {
    CheckCounts(in_count, out_count);
    ReadSizes([&](size_t i) -> const Dims& { return in[i].dims; });
    return 0;
  });
}

int32_t Plugin::enqueue(const PluginTensorDesc* in, const PluginTensorDesc*, const void* const* inputs,
                        void* const* outputs, void* workspace, cudaStream_t stream) noexcept {
  return Guarded(kFailed, [&] {
    const Sizes sizes = ReadSizes([&](size_t i) -> const Dims& { return in[i].dims; });
    Call call{{}, sizes, in, inputs, outputs, workspace, stream};
    if (op_.routes()) call.routing = settings_.Shape(sizes);
    const cudaError_t error = op_.enqueue(call);
    if (error != cudaSuccess) {
      throw OpError(std::string("its work could not be put on the stream: ") + cudaGetErrorString(error) + " (" +
                    cudaGetErrorName(error) + ")");
    }
    return 0;
  });
}

}  // namespace vmoe::tensorrt
