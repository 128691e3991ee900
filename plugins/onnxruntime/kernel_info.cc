#include "onnxruntime/kernel_info.h"

#include <string>

#include "core/sanitizers.h"
#include "onnxruntime/ort_error.h"

namespace vmoe::ort {

namespace {

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

std::optional<int64_t> NodeInfo::Attribute(const char* name) const {
  int64_t value = 0;
  if (Succeeds(api, api.KernelInfoGetAttribute_int64(info, name, &value))) return value;
  if (HasOtherType(api, info, name)) throw OpError("attribute " + std::string(name) + " is not an INT");
  return std::nullopt;
}

bool NodeInfo::Flag(const char* name) const {
  const int64_t value = Attribute(name).value_or(0);
  if (value != 0 && value != 1) {
    throw OpError("attribute " + std::string(name) + " must be 0 or 1, not " + std::to_string(value));
  }
  return value == 1;
}

std::optional<Tensor> NodeInfo::Constant(size_t input, const char* name) const {
  size_t count = 0;
  Check(api, api.KernelInfo_GetInputCount(info, &count));
  if (input >= count) return std::nullopt;
  int is_constant = 0;
  const OrtValue* value = nullptr;
  Check(api, api.KernelInfoGetConstantInput_tensor(info, input, &is_constant, &value));
  if (is_constant == 0 || value == nullptr) return std::nullopt;
  return ReadTensor(api, value, name);
}

Call::Call(const OrtApi& api, OrtKernelContext* context, const OpSpec& spec)
    : api_(api), context_(context), spec_(spec) {
  Check(api_, api_.KernelContext_GetInputCount(context_, &input_count_));
  Check(api_, api_.KernelContext_GetOutputCount(context_, &output_count_));
}

std::optional<Tensor> Call::OptionalInput(size_t index, Sizes& sizes) const {
  if (index >= input_count_) return std::nullopt;
  const OrtValue* value = nullptr;
  Check(api_, api_.KernelContext_GetInput(context_, index, &value));
  if (value == nullptr) return std::nullopt;
  Tensor tensor = ReadTensor(api_, value, spec_.inputs[index].name);
  sizes.Add(spec_.inputs[index], tensor);
  return tensor;
}

Tensor Call::Input(size_t index, Sizes& sizes) const {
  std::optional<Tensor> tensor = OptionalInput(index, sizes);
  if (!tensor) throw OpError(std::string("input ") + spec_.inputs[index].name + " is missing");
  return *std::move(tensor);
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

void* Call::RawOutput(size_t index, const Sizes& sizes) const {
  if (index >= output_count_) return nullptr;
  const std::vector<int64_t> shape = sizes.Shape(spec_.outputs[index]);
  OrtValue* value = nullptr;
  Check(api_, api_.KernelContext_GetOutput(context_, index, shape.data(), shape.size(), &value));
  if (value == nullptr) return nullptr;
  void* data = nullptr;
  Check(api_, api_.GetTensorMutableData(value, &data));
  return data;
}

}  // namespace vmoe::ort
