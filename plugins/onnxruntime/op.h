// Ops for ONNX Runtime from a kernel class:
//
//   class Kernel {
//    public:
//     static const OpSpec kSpec;
//     explicit Kernel(const NodeInfo& node);
//     void Compute(const Call& call) const;    // from many threads at once
//   };
//
// The constructor and Compute may throw; ONNX Runtime gets a status that begins with the op's name.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstddef>
#include <memory>
#include <vector>

#include "onnxruntime/kernel_info.h"
#include "onnxruntime/op_spec.h"
#include "onnxruntime/ort_error.h"

namespace vmoe::ort {

// The oldest ONNX Runtime that is supported: 1.21. Newer ones serve its API unchanged.
inline constexpr uint32_t kOrtApiVersion = 21;

template <class Kernel>
class Op : public OrtCustomOp {
 public:
  Op(const TypeChoice& types, const char* provider) : OrtCustomOp{}, types_(types), provider_(provider) {
    version = kOrtApiVersion;
    GetName = [](const OrtCustomOp*) { return Kernel::kSpec.name; };
    GetExecutionProviderType = [](const OrtCustomOp* op) { return static_cast<const Op*>(op)->provider_; };
    GetInputTypeCount = [](const OrtCustomOp*) { return Kernel::kSpec.input_count; };
    GetInputType = [](const OrtCustomOp* op, size_t i) { return Type(op, Kernel::kSpec.inputs[i]); };
    GetInputCharacteristic = [](const OrtCustomOp*, size_t i) { return Characteristic(Kernel::kSpec.inputs[i]); };
    GetInputMemoryType = [](const OrtCustomOp* op, size_t i) { return MemoryType(op, Kernel::kSpec.inputs[i]); };
    GetOutputTypeCount = [](const OrtCustomOp*) { return Kernel::kSpec.output_count; };
    GetOutputType = [](const OrtCustomOp* op, size_t i) { return Type(op, Kernel::kSpec.outputs[i]); };
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

  TypeChoice types_;
  const char* provider_;

  static ONNXTensorElementDataType Type(const OrtCustomOp* op, const ValueSpec& spec) {
    const TypeChoice& types = static_cast<const Op*>(op)->types_;
    switch (spec.type) {
      case kFloat: return kFloat32;
      case kInt32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
      case kInt64: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
      case kGates: return types.gates;
      case kTokens: return types.tokens;
      case kFloatOrBfloat16: break;
    }
    return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;  // any type, which the kernel checks
  }

  static OrtCustomOpInputOutputCharacteristic Characteristic(const ValueSpec& spec) {
    return spec.optional ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
  }

  // Settings are read by the host, wherever the kernel runs.
  static OrtMemType MemoryType(const OrtCustomOp* op, const ValueSpec& spec) {
    const bool on_device = static_cast<const Op*>(op)->provider_ != nullptr;
    return on_device && spec.type == kInt64 ? OrtMemTypeCPUInput : OrtMemTypeDefault;
  }
};

// The ops of a library, in the order of registration. They live as long as the process.
using OpList = std::vector<const OrtCustomOp*>;

// Adds one op for each choice of types, run by an execution provider; null: the CPU's.
template <class Kernel, size_t N = 1>
void AddOps(OpList& list, const TypeChoice (&types)[N] = kFloatOnly, const char* provider = nullptr) {
  for (const TypeChoice& choice : types) list.push_back(new Op<Kernel>(choice, provider));
}

void AddSparseMlp(OpList& list);
void AddRoute(OpList& list);
void AddDispatch(OpList& list);
void AddRouteDispatch(OpList& list);
void AddExpertMlp(OpList& list);
void AddCombine(OpList& list);
void AddLinear(OpList& list);
void AddDenseMlp(OpList& list);
void AddAttention(OpList& list);

// All ops of this library: each library has its own. Throws OpError if this process can't run them.
OpList LibraryOps();

}  // namespace vmoe::ort
