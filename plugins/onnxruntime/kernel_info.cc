#include "onnxruntime/kernel_info.h"

#include <string>

#include "core/sanitizers.h"
#include "onnxruntime/ort_error.h"
#include "ops/op_error.h"

namespace vmoe::ort {
namespace {

using ops::OpError;

bool Succeeds(const OrtApi& api, OrtStatus* status) {
  if (status == nullptr) return true;
  api.ReleaseStatus(status);
  return false;
}

// The status of a failed read doesn't say whether the attribute is missing or of another type.
bool HasOtherType(const OrtApi& api, const OrtKernelInfo* info, const char* name) {
  float number = 0;
  size_t size = 0;
  return Succeeds(api, api.KernelInfoGetAttribute_float(info, name, &number)) ||
         Succeeds(api, api.KernelInfoGetAttribute_string(info, name, nullptr, &size)) ||
         Succeeds(api, api.KernelInfoGetAttributeArray_int64(info, name, nullptr, &size)) ||
         Succeeds(api, api.KernelInfoGetAttributeArray_float(info, name, nullptr, &size));
}

// One ParallelFor. The thread sanitizer doesn't see how ONNX Runtime's pool orders its threads, so it is told: what the
// caller did comes before every task, and every task before what the caller does next. Tasks stay unordered.
struct Job {
  TaskRunner::Task task;
  void* context;
  size_t begin = 0, end = 0;  // only their addresses count
};

void RunTask(void* data, size_t index) {
  auto* job = static_cast<Job*>(data);
  Acquire(&job->begin);
  job->task(job->context, index);
  Release(&job->end);
}

}  // namespace

NodeInfo::NodeInfo(const OrtApi& api, const OrtKernelInfo* info, const ops::OpSpec& spec, ops::TakesChoice takes)
    : api_(api),
      info_(info),
      node_{&spec, ops::Attributes(spec, [this](const char* name) { return ReadAttribute(name); }),
            ops::ReadRoutingSettings(spec, [this](const char* name) { return ReadAttribute(name); }),
            ops::Types(spec, takes)} {
  Check(api_, api_.KernelInfo_GetInputCount(info_, &input_count_));
  for (size_t i = 0; i < spec.inputs.size(); ++i) {
    if (!IsGiven(i)) continue;
    const auto onnx_type = TypeOf(i);
    if (!onnx_type) continue;
    const std::optional<ElementType> type = ElementTypeOf(*onnx_type);
    if (!type) throw node_.types.Refusal(spec.inputs[i], NameOf(*onnx_type));
    node_.types.Add(spec.inputs[i], *type);
  }
  ops::CheckInputs(spec, node_.types, [this](size_t input) { return IsGiven(input); });
  node_.attributes.Check(node_.types);
  for (size_t i = 0; i < spec.inputs.size(); ++i) {
    if (const std::optional<Tensor> constant = Constant(i)) sizes_.Add(spec.inputs[i], constant->shape);
  }
  node_.attributes.Check(sizes_);
}

std::optional<int64_t> NodeInfo::ReadAttribute(const char* name) const {
  int64_t value = 0;
  if (Succeeds(api_, api_.KernelInfoGetAttribute_int64(info_, name, &value))) return value;
  if (HasOtherType(api_, info_, name)) throw OpError("attribute " + std::string(name) + " is not an INT");
  return std::nullopt;
}

bool NodeInfo::IsGiven(size_t input) const {
  if (input >= input_count_) return false;
  size_t size = 0;  // of the name with its end; an input that is left out has none
  return Succeeds(api_, api_.KernelInfo_GetInputName(info_, input, nullptr, &size)) && size > 1;
}

std::optional<ONNXTensorElementDataType> NodeInfo::TypeOf(size_t input) const {
  OrtTypeInfo* info = nullptr;
  if (!Succeeds(api_, api_.KernelInfo_GetInputTypeInfo(info_, input, &info))) return std::nullopt;
  const OrtTensorTypeAndShapeInfo* tensor = nullptr;
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  OrtStatus* status = api_.CastTypeInfoToTensorInfo(info, &tensor);
  if (status == nullptr && tensor != nullptr) status = api_.GetTensorElementType(tensor, &type);
  api_.ReleaseTypeInfo(info);
  Check(api_, status);
  return type;
}

std::optional<Tensor> NodeInfo::Constant(size_t index) const {
  if (index >= input_count_) return std::nullopt;
  int is_constant = 0;
  const OrtValue* value = nullptr;
  Check(api_, api_.KernelInfoGetConstantInput_tensor(info_, index, &is_constant, &value));
  if (is_constant == 0 || value == nullptr) return std::nullopt;
  return ReadTensor(api_, value, spec().inputs[index].name);
}

Call::Call(const OrtApi& api, OrtKernelContext* context, const ops::Node& node)
    : api_(api), context_(context), node_(node) {
  size_t input_count = 0;
  Check(api_, api_.KernelContext_GetInputCount(context_, &input_count));
  Check(api_, api_.KernelContext_GetOutputCount(context_, &output_count_));
  ops::Types types = node.types;
  ops::RoutingSettings settings = node.settings;
  size_t setting = 0;
  size_t policy = 0;
  for (size_t i = 0; i < node.spec->inputs.size(); ++i) {
    const ops::ValueSpec& spec = node.spec->inputs[i];
    const OrtValue* value = nullptr;
    if (i < input_count) Check(api_, api_.KernelContext_GetInput(context_, i, &value));
    if (value != nullptr) {
      inputs_[i] = ReadTensor(api_, value, spec.name);
      types.Add(spec, inputs_[i].type);
      sizes_.Add(spec, inputs_[i].shape);
    }
    if (!spec.is_number()) continue;
    // An input wins over an attribute.
    std::optional<int64_t>& number =
        spec.presence == ops::Presence::kPolicy ? settings.policies[policy++] : settings.values[setting++];
    if (value != nullptr) number = *Data<int64_t>(i);
  }
  routing_ = ops::CheckCall(node, settings, sizes_);
}

TaskRunner Call::Runner() const {
  return {const_cast<Call*>(this), [](void* pool, size_t count, TaskRunner::Task task, void* context) {
            const auto* call = static_cast<const Call*>(pool);
            Job job{task, context};
            Release(&job.begin);
            // One batch per task: threads take them in turn, however long each is.
            OrtStatus* status = call->api_.KernelContext_ParallelFor(call->context_, RunTask, count, count, &job);
            Acquire(&job.end);
            if (status == nullptr) return;
            call->api_.ReleaseStatus(status);
            for (size_t i = 0; i < count; ++i) task(context, i);
          }};
}

int32_t* Call::Sources(size_t index, size_t places) const {
  ops::Sizes sizes = sizes_;
  sizes.Set('M', static_cast<int64_t>(places));
  ops::CheckNumbering(sizes);
  return static_cast<int32_t*>(RawOutput(index, sizes));
}

void* Call::RawOutput(size_t index, const ops::Sizes& sizes) const {
  if (index >= output_count_) return nullptr;
  const ops::Shape shape = sizes.ShapeOf(node_.spec->outputs[index]);
  OrtValue* value = nullptr;
  Check(api_,
        api_.KernelContext_GetOutput(context_, index, shape.sizes.data(), static_cast<size_t>(shape.rank), &value));
  if (value == nullptr) return nullptr;
  void* data = nullptr;
  Check(api_, api_.GetTensorMutableData(value, &data));
  return data;
}

}  // namespace vmoe::ort
