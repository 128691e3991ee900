#include "onnxruntime/kernel_info.h"

#include <algorithm>
#include <iterator>
#include <string>

#include "core/sanitizers.h"
#include "onnxruntime/ort_error.h"

namespace vmoe::ort {
namespace {

using ops::OpError;

// Returns the element type for an ONNX type, or none if no op accepts that type.
std::optional<ElementType> element_type_of(ONNXTensorElementDataType type) {
  const auto* found = std::find_if(std::begin(kElementTypes), std::end(kElementTypes),
                                   [type](const ElementTypeSpec& spec) { return spec.onnx == type; });
  if (found == std::end(kElementTypes)) return std::nullopt;
  return static_cast<ElementType>(found - kElementTypes);
}

bool succeeds(const OrtApi& api, OrtStatus* status) {
  if (status == nullptr) return true;
  api.ReleaseStatus(status);
  return false;
}

// Returns whether an attribute exists but is not an INT. Reading an attribute as INT can't show this, because a missing
// attribute and an attribute of another type give the same status.
bool has_other_type(const OrtApi& api, const OrtKernelInfo* info, const char* name) {
  float number = 0;
  size_t size = 0;
  return succeeds(api, api.KernelInfoGetAttribute_float(info, name, &number)) ||
         succeeds(api, api.KernelInfoGetAttribute_string(info, name, nullptr, &size)) ||
         succeeds(api, api.KernelInfoGetAttributeArray_int64(info, name, nullptr, &size)) ||
         succeeds(api, api.KernelInfoGetAttributeArray_float(info, name, nullptr, &size));
}

// One call of ONNX Runtime's ParallelFor. The thread sanitizer can't see how ONNX Runtime's pool synchronizes its
// threads, so this struct describes it with the addresses of `begin` and `end`. The caller's earlier work happens
// before every call of `task`, and every call of `task` happens before the caller's later work. The calls of `task`
// have no order among themselves.
struct Job {
  TaskRunner::Task task;
  void* context;
  size_t begin = 0, end = 0;  // only their addresses matter
};

void run_task(void* data, size_t index) {
  auto* job = static_cast<Job*>(data);
  acquire(&job->begin);
  job->task(job->context, index);
  release(&job->end);
}

// Returns the name of an ONNX type for messages, such as "float64".
const char* name_of(ONNXTensorElementDataType type) {
  if (const std::optional<ElementType> known = element_type_of(type)) return vmoe::name_of(*known);
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE: return "float64";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return "uint8";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL: return "bool";
    default: return "of another type";
  }
}

// Returns the tensor in `value`. Throws OpError if `value` is not a tensor, or if no op accepts its type. The error
// message contains `name`.
Tensor read_tensor(const OrtApi& api, const OrtValue* value, const char* name) {
  int is_tensor = 0;
  check(api, api.IsTensor(value, &is_tensor));
  if (is_tensor == 0) throw OpError(std::string(name) + " is not a tensor");
  Tensor tensor;
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api, api.GetTensorTypeAndShape(value, &info));
  size_t rank = 0;
  OrtStatus* status = api.GetTensorElementType(info, &type);
  if (status == nullptr) status = api.GetDimensionsCount(info, &rank);
  if (status == nullptr) {
    tensor.shape.rank = static_cast<int64_t>(rank);
    status = api.GetDimensions(info, tensor.shape.sizes.data(), std::min(rank, ops::Shape::kMaxRank));
  }
  api.ReleaseTensorTypeAndShapeInfo(info);
  check(api, status);
  const std::optional<ElementType> known = element_type_of(type);
  if (!known) throw OpError(std::string(name) + " is " + name_of(type) + ", which no op takes");
  tensor.type = *known;
  void* data = nullptr;
  check(api, api.GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  tensor.data = data;
  return tensor;
}

}  // namespace

ONNXTensorElementDataType onnx_type_of(ElementType type) {
  return static_cast<ONNXTensorElementDataType>(kElementTypes[static_cast<size_t>(type)].onnx);
}

NodeInfo::NodeInfo(const OrtApi& api, const OrtKernelInfo* info, const ops::OpSpec& spec)
    : api_(api),
      info_(info),
      node_{&spec, ops::Attributes(spec, [this](const char* name) { return read_attribute(name); }),
            ops::read_settings(spec, [this](const char* name) { return read_attribute(name); }), ops::Types(spec)} {
  check(api_, api_.KernelInfo_GetInputCount(info_, &input_count_));
  for (size_t i = 0; i < spec.inputs.size(); ++i) {
    if (!is_given(i)) continue;
    const auto onnx_type = type_of(i);
    if (!onnx_type) continue;
    const std::optional<ElementType> type = element_type_of(*onnx_type);
    if (!type) throw node_.types.refusal(spec.inputs[i], name_of(*onnx_type));
    node_.types.add(spec.inputs[i], *type);
  }
  ops::check_inputs(spec, node_.types, [this](size_t input) { return is_given(input); });
  node_.attributes.check(node_.types);
  ops::Sizes sizes;  // from the constant inputs
  for (size_t i = 0; i < spec.inputs.size(); ++i) {
    if (const std::optional<Tensor> constant = constant_input(i))
      sizes.add(spec.inputs[i], constant->shape, constant->type);
  }
  node_.attributes.check(sizes);
  ops::check_groups(sizes);
}

std::optional<int64_t> NodeInfo::read_attribute(const char* name) const {
  int64_t value = 0;
  if (succeeds(api_, api_.KernelInfoGetAttribute_int64(info_, name, &value))) return value;
  if (has_other_type(api_, info_, name)) throw OpError("attribute " + std::string(name) + " is not an INT");
  return std::nullopt;
}

bool NodeInfo::is_given(size_t input) const {
  if (input >= input_count_) return false;
  size_t size = 0;  // length of the name with its terminator, so 1 for an omitted input
  return succeeds(api_, api_.KernelInfo_GetInputName(info_, input, nullptr, &size)) && size > 1;
}

std::optional<ONNXTensorElementDataType> NodeInfo::type_of(size_t input) const {
  OrtTypeInfo* info = nullptr;
  if (!succeeds(api_, api_.KernelInfo_GetInputTypeInfo(info_, input, &info))) return std::nullopt;
  const OrtTensorTypeAndShapeInfo* tensor = nullptr;
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  OrtStatus* status = api_.CastTypeInfoToTensorInfo(info, &tensor);
  if (status == nullptr && tensor != nullptr) status = api_.GetTensorElementType(tensor, &type);
  api_.ReleaseTypeInfo(info);
  check(api_, status);
  return type;
}

std::optional<Tensor> NodeInfo::constant_input(size_t index) const {
  if (index >= input_count_) return std::nullopt;
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(api_, api_.KernelInfoGetConstantInput_tensor(info_, index, &is_constant, &value));
  if (is_constant == 0 || value == nullptr) return std::nullopt;
  return read_tensor(api_, value, node_.spec->inputs[index].name);
}

Call::Call(const OrtApi& api, OrtKernelContext* context, const ops::Node& node)
    : api_(api), context_(context), node_(node), settings_(node.settings), types_(node.types) {
  size_t input_count = 0;
  check(api_, api_.KernelContext_GetInputCount(context_, &input_count));
  check(api_, api_.KernelContext_GetOutputCount(context_, &output_count_));
  for (size_t i = 0; i < node.spec->inputs.size(); ++i) {
    const ops::ValueSpec& spec = node.spec->inputs[i];
    const OrtValue* value = nullptr;
    if (i < input_count) check(api_, api_.KernelContext_GetInput(context_, i, &value));
    if (value == nullptr) continue;
    inputs_[i] = read_tensor(api_, value, spec.name);
    types_.add(spec, inputs_[i].type);
    sizes_.add(spec, inputs_[i].shape, inputs_[i].type);
    // A setting may be given as an attribute and as an input. If both are given, the input overrides the attribute.
    if (spec.is_setting()) settings_[spec.setting] = *data<int64_t>(i);
  }
  routing_ = ops::check_call(node, settings_, sizes_);
}

TaskRunner Call::runner() const {
  return {const_cast<Call*>(this), [](void* pool, size_t count, TaskRunner::Task task, void* context) {
            const auto* call = static_cast<const Call*>(pool);
            Job job{task, context};
            release(&job.begin);
            // Splits the work into `count` batches, each with one call of `task`. A thread can then start the next call
            // as soon as it is free.
            OrtStatus* status = call->api_.KernelContext_ParallelFor(call->context_, run_task, count, count, &job);
            acquire(&job.end);
            if (status == nullptr) return;
            call->api_.ReleaseStatus(status);
            for (size_t i = 0; i < count; ++i) task(context, i);
          }};
}

const int32_t* Call::indices(size_t index, size_t count, const char* things) const {
  const auto* values = data<int32_t>(index);
  const auto limit = static_cast<int64_t>(count);
  const int32_t* const end = values + inputs_[index].shape.elements();
  const int32_t* bad = std::find_if(values, end, [&](int32_t value) { return value < -1 || value >= limit; });
  if (bad == end) return values;
  throw OpError(std::string(node_.spec->inputs[index].name) + " has the number " + std::to_string(*bad) +
                ", but there are " + std::to_string(count) + " " + things);
}

void* Call::raw_output(size_t index, const ops::Sizes& sizes) const {
  if (index >= output_count_) return nullptr;
  const ops::Shape shape = sizes.shape_of(node_.spec->outputs[index]);
  OrtValue* value = nullptr;
  check(api_,
        api_.KernelContext_GetOutput(context_, index, shape.sizes.data(), static_cast<size_t>(shape.rank), &value));
  if (value == nullptr) return nullptr;
  void* data = nullptr;
  check(api_, api_.GetTensorMutableData(value, &data));
  return data;
}

}  // namespace vmoe::ort
