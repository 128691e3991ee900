#include "onnxruntime/kernel_info.h"

#include <string>

#include "onnxruntime/ort_error.h"

namespace vmoe::ort {

std::optional<int64_t> NodeInfo::Attribute(const char* name) const {
  int64_t value = 0;
  if (OrtStatus* status = api.KernelInfoGetAttribute_int64(info, name, &value); status != nullptr) {
    // The status doesn't say whether the attribute is missing or of another type.
    api.ReleaseStatus(status);
    return std::nullopt;
  }
  return value;
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

const Kernels& ProcessKernels() {
  CpuPath path;
  std::string error;
  if (!ChosenCpuPath(&path, &error)) throw OpError(error);
  return KernelsFor(path);
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
            // One batch per task: threads take them in turn, however long each is.
            OrtStatus* status = call->api_.KernelContext_ParallelFor(call->context_, task, count, count, context);
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
