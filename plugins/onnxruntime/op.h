// Ops for ONNX Runtime from a kernel class:
//
//   class Kernel {
//    public:
//     static constexpr const ops::OpSpec& kSpec = ops::kLinear;
//     static constexpr bool takes(const ops::TypeChoice& types);  // left out: every choice of the op's
//     static constexpr bool kInPlace = true;  // left out: false. Output 0 may be where input 0 is
//     explicit Kernel(const NodeInfo& node);
//     void compute(const Call& call) const;    // from many threads at once
//   };
//
// What a node has and what a call gives is checked against kSpec before the constructor and compute see it. Both may
// throw OpError; ONNX Runtime gets a status that begins with the op's name.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstddef>
#include <type_traits>
#include <vector>

#include "onnxruntime/kernel_info.h"
#include "onnxruntime/ort_error.h"
#include "onnxruntime/tensor.h"
#include "ops/op_table.h"

namespace vmoe::ort {

// The oldest ONNX Runtime that is supported: 1.21. Newer ones serve its API unchanged.
inline constexpr uint32_t kOrtApiVersion = 21;

template <class Kernel, class = void>
inline constexpr ops::TakesChoice kTakes = nullptr;
template <class Kernel>
inline constexpr ops::TakesChoice kTakes<Kernel, std::void_t<decltype(&Kernel::takes)>> = &Kernel::takes;

template <class Kernel, class = void>
inline constexpr bool kRunsInPlace = false;
template <class Kernel>
inline constexpr bool kRunsInPlace<Kernel, std::void_t<decltype(Kernel::kInPlace)>> = Kernel::kInPlace;

template <class Kernel>
class Op : public OrtCustomOp {
 public:
  Op(const ops::TypeChoice& types, const char* provider) : OrtCustomOp{}, types_(types), provider_(provider) {
    version = kOrtApiVersion;
    GetName = [](const OrtCustomOp*) { return Kernel::kSpec.name; };
    GetExecutionProviderType = [](const OrtCustomOp* op) { return static_cast<const Op*>(op)->provider_; };
    GetInputTypeCount = [](const OrtCustomOp*) { return Kernel::kSpec.inputs.size(); };
    GetInputType = [](const OrtCustomOp* op, size_t i) { return type_of(op, Kernel::kSpec.inputs[i]); };
    GetInputCharacteristic = [](const OrtCustomOp*, size_t i) { return characteristic_of(Kernel::kSpec.inputs[i]); };
    GetInputMemoryType = [](const OrtCustomOp* op, size_t i) { return memory_type_of(op, Kernel::kSpec.inputs[i]); };
    GetOutputTypeCount = [](const OrtCustomOp*) { return Kernel::kSpec.outputs.size(); };
    GetOutputType = [](const OrtCustomOp* op, size_t i) { return type_of(op, Kernel::kSpec.outputs[i]); };
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t i) { return characteristic_of(Kernel::kSpec.outputs[i]); };
    GetStartVersion = [](const OrtCustomOp*) { return 1; };
    GetEndVersion = [](const OrtCustomOp*) { return INT32_MAX; };
    if (kRunsInPlace<Kernel>) {
      GetMayInplace = [](int** inputs, int** outputs) {
        *inputs = new int(0);
        *outputs = new int(0);
        return size_t{1};
      };
      ReleaseMayInplace = [](int* inputs, int* outputs) {
        delete inputs;
        delete outputs;
      };
    }
    CreateKernelV2 = [](const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
      return as_status(*api, Kernel::kSpec.name, [&] {
        const NodeInfo node(*api, info, Kernel::kSpec, kTakes<Kernel>);
        *kernel = new State{*api, node.node(), Kernel(node)};
      });
    };
    KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
      const auto* state = static_cast<const State*>(kernel);
      return as_status(state->api, Kernel::kSpec.name,
                       [&] { state->kernel.compute(Call(state->api, context, state->node)); });
    };
    KernelDestroy = [](void* kernel) { delete static_cast<State*>(kernel); };
  }

 private:
  struct State {
    const OrtApi& api;
    ops::Node node;
    Kernel kernel;
  };

  ops::TypeChoice types_;
  const char* provider_;

  static ONNXTensorElementDataType type_of(const OrtCustomOp* op, const ops::ValueSpec& spec) {
    // Weights may be of any type, which NodeInfo checks.
    if (spec.type == ops::ValueType::kW) return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    return onnx_type_of(static_cast<const Op*>(op)->types_[spec.type]);
  }

  static OrtCustomOpInputOutputCharacteristic characteristic_of(const ops::ValueSpec& spec) {
    return spec.presence == ops::Presence::kRequired ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
  }

  // Settings and policies are read by the host, wherever the kernel runs.
  static OrtMemType memory_type_of(const OrtCustomOp* op, const ops::ValueSpec& spec) {
    const bool on_device = static_cast<const Op*>(op)->provider_ != nullptr;
    return on_device && spec.is_number() ? OrtMemTypeCPUInput : OrtMemTypeDefault;
  }
};

// The ops of a library, in the order of registration. They live as long as the process.
using OpList = std::vector<const OrtCustomOp*>;

// Adds one op for each choice of the types of tokens and gates that the kernel takes, run by an execution provider;
// null: the CPU's.
template <class Kernel>
void add_ops(OpList& list, const char* provider = nullptr) {
  const auto& choices = Kernel::kSpec.choices;
  for (size_t i = 0; i < choices.size(); ++i) {
    bool is_new = kTakes<Kernel> == nullptr || kTakes<Kernel>(choices[i]);
    for (size_t j = 0; j < i; ++j) {
      const bool was_taken = kTakes<Kernel> == nullptr || kTakes<Kernel>(choices[j]);
      is_new = is_new && !(was_taken && choices[j].t == choices[i].t && choices[j].r == choices[i].r);
    }
    if (is_new) list.push_back(new Op<Kernel>(choices[i], provider));
  }
}

// add_linear(list) and so on: one function for each op, beside its kernel for the CPU.
#define VMOE_DECLARE_ADD(name, Name) void add_##name(OpList& list);
VMOE_FOR_EACH_OP(VMOE_DECLARE_ADD)
#undef VMOE_DECLARE_ADD

// All ops of this library: each library has its own. Throws OpError if this process can't run them.
OpList library_ops();

}  // namespace vmoe::ort
