// An op for ONNX Runtime from a kernel class:
//
//   class Kernel {
//    public:
//     static const OpSpec kSpec;
//     explicit Kernel(const NodeInfo& node);
//     void Compute(const Call& call) const;    // from many threads at once
//   };
//
// Both may throw; ONNX Runtime gets a status that begins with the op's name.
#pragma once

#include <onnxruntime_c_api.h>

#include <memory>

#include "onnxruntime/kernel_info.h"
#include "onnxruntime/op_spec.h"
#include "onnxruntime/ort_error.h"

namespace vmoe::ort {

// The oldest ONNX Runtime that is supported: 1.21. Newer ones serve its API unchanged.
inline constexpr uint32_t kOrtApiVersion = 21;

template <class Kernel>
class Op : public OrtCustomOp {
 public:
  Op() : OrtCustomOp{} {
    version = kOrtApiVersion;
    GetName = [](const OrtCustomOp*) { return Kernel::kSpec.name; };
    GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
    GetInputTypeCount = [](const OrtCustomOp*) { return Kernel::kSpec.input_count; };
    GetInputType = [](const OrtCustomOp*, size_t index) { return Kernel::kSpec.inputs[index].type; };
    GetInputCharacteristic = [](const OrtCustomOp*, size_t i) { return Characteristic(Kernel::kSpec.inputs[i]); };
    GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
    GetOutputTypeCount = [](const OrtCustomOp*) { return Kernel::kSpec.output_count; };
    GetOutputType = [](const OrtCustomOp*, size_t index) { return Kernel::kSpec.outputs[index].type; };
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t i) { return Characteristic(Kernel::kSpec.outputs[i]); };
    GetStartVersion = [](const OrtCustomOp*) { return 1; };
    GetEndVersion = [](const OrtCustomOp*) { return INT32_MAX; };
    CreateKernelV2 = [](const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
      return AsStatus(*api, Kernel::kSpec.name, [&] { *kernel = new State{*api, Kernel(NodeInfo{*api, info})}; });
    };
    KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
      const auto* state = static_cast<const State*>(kernel);
      return AsStatus(state->api, Kernel::kSpec.name,
                      [&] { state->kernel.Compute(Call(state->api, context, Kernel::kSpec)); });
    };
    KernelDestroy = [](void* kernel) { delete static_cast<State*>(kernel); };
  }

 private:
  struct State {
    const OrtApi& api;
    Kernel kernel;
  };

  static OrtCustomOpInputOutputCharacteristic Characteristic(const ValueSpec& spec) {
    return spec.optional ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
  }
};

// One op each.
const OrtCustomOp* SparseMlpOp();
const OrtCustomOp* RouteOp();
const OrtCustomOp* DispatchOp();
const OrtCustomOp* ExpertMlpOp();
const OrtCustomOp* CombineOp();
const OrtCustomOp* LinearOp();
const OrtCustomOp* DenseMlpOp();
const OrtCustomOp* AttentionOp();

}  // namespace vmoe::ort
