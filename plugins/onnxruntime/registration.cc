// Registers the ops with ONNX Runtime. The entry point adds the domain `vmoe` to a session's options.
#include <onnxruntime_c_api.h>

#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include "core/weight_type.h"
#include "onnxruntime/op.h"
#include "onnxruntime/ort_error.h"

namespace vmoe::ort {
namespace {

class CustomOp : public OrtCustomOp {
 public:
  CustomOp(const Op& op, const ops::TypeChoice& types, const char* provider)
      : OrtCustomOp{}, op_(op), types_(types), provider_(provider) {
    version = VMOE_OLDEST_ONNXRUNTIME;
    GetName = [](const OrtCustomOp* op) { return spec_of(op).name; };
    GetExecutionProviderType = [](const OrtCustomOp* op) { return of(op).provider_; };
    GetInputTypeCount = [](const OrtCustomOp* op) { return spec_of(op).inputs.size(); };
    GetInputType = [](const OrtCustomOp* op, size_t i) { return of(op).type_of(spec_of(op).inputs[i]); };
    GetInputCharacteristic = [](const OrtCustomOp* op, size_t i) { return characteristic_of(spec_of(op).inputs[i]); };
    GetInputMemoryType = [](const OrtCustomOp* op, size_t i) {
      const bool on_device = of(op).provider_ != nullptr;
      return on_device && spec_of(op).inputs[i].is_setting() ? OrtMemTypeCPUInput : OrtMemTypeDefault;
    };
    GetOutputTypeCount = [](const OrtCustomOp* op) { return spec_of(op).outputs.size(); };
    GetOutputType = [](const OrtCustomOp* op, size_t i) { return of(op).type_of(spec_of(op).outputs[i]); };
    GetOutputCharacteristic = [](const OrtCustomOp* op, size_t i) { return characteristic_of(spec_of(op).outputs[i]); };
    GetStartVersion = [](const OrtCustomOp*) { return 1; };
    GetEndVersion = [](const OrtCustomOp*) { return INT32_MAX; };
    if (op.in_place) {
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
    CreateKernelV2 = [](const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** state) {
      return as_status(*api, spec_of(op).name, [&] {
        const NodeInfo node(*api, info, spec_of(op));
        *state = new State{*api, node.node(), of(op).op_.make(node)};
      });
    };
    KernelComputeV2 = [](void* data, OrtKernelContext* context) {
      const auto* state = static_cast<const State*>(data);
      return as_status(state->api, state->node.spec->name,
                       [&] { state->kernel(Call(state->api, context, state->node)); });
    };
    KernelDestroy = [](void* state) { delete static_cast<State*>(state); };
  }

 private:
  struct State {
    const OrtApi& api;
    ops::Node node;
    Kernel kernel;
  };

  Op op_;
  ops::TypeChoice types_;
  const char* provider_;

  static const CustomOp& of(const OrtCustomOp* op) { return *static_cast<const CustomOp*>(op); }
  static const ops::OpSpec& spec_of(const OrtCustomOp* op) { return of(op).op_.spec; }

  ONNXTensorElementDataType type_of(const ops::ValueSpec& value) const {
    // An input of type W (weights) is declared with any type, because NodeInfo checks its type. Weights smaller than a
    // byte are declared with their actual type, because ONNX Runtime's "any" does not include such types.
    return value.type == ops::ValueType::kW && weight_type(types_[value.type]).bits >= 8
               ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED
               : onnx_type_of(types_[value.type]);
  }

  static OrtCustomOpInputOutputCharacteristic characteristic_of(const ops::ValueSpec& value) {
    return value.presence == ops::Presence::kRequired ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
  }
};

// Returns the domain for the ONNX Runtime that `api` belongs to. A process may contain several ONNX Runtimes, each with
// its own domain. A domain lives as long as the process, because sessions refer to it.
OrtCustomOpDomain* domain_of(const OrtApi& api) {
  static std::mutex mutex;
  static const auto* const ops = new OpList(library_ops());
  static auto* const domains = new std::map<const OrtApi*, OrtCustomOpDomain*>;
  const std::lock_guard<std::mutex> lock(mutex);
  OrtCustomOpDomain*& domain = (*domains)[&api];
  if (domain == nullptr) {
    OrtCustomOpDomain* made = nullptr;
    check(api, api.CreateCustomOpDomain("vmoe", &made));
    for (const OrtCustomOp* op : *ops) check(api, api.CustomOpDomain_Add(made, op));
    domain = made;
  }
  return domain;
}

}  // namespace

void add_op(OpList& list, const Op& op, const char* provider) {
  // W is the type of the weights. If several type choices differ only in W and use the same type for the scales of the
  // weights, they share one op.
  std::set<std::pair<ElementType, ElementType>> added;
  for (size_t i = 0; i < std::size(ops::kTypeChoices); ++i) {
    const ops::TypeChoice& choice = ops::kTypeChoices[i];
    if ((op.spec.choices >> i & 1) != 0 &&
        added.emplace(choice[ops::ValueType::kQ], choice[ops::ValueType::kT]).second) {
      list.push_back(new CustomOp(op, choice, provider));
    }
  }
}

}  // namespace vmoe::ort

extern "C" __attribute__((visibility("default"))) OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                                                            const OrtApiBase* base) {
  using vmoe::ort::check;
  const OrtApi* api = base->GetApi(VMOE_OLDEST_ONNXRUNTIME);
  if (api == nullptr) {
    // Version 1 of the API is enough to report the error, because CreateStatus is the first entry of OrtApi in every
    // version.
    api = base->GetApi(1);
    if (api == nullptr) return nullptr;
    const std::string version = base->GetVersionString();
    const std::string oldest = std::to_string(VMOE_OLDEST_ONNXRUNTIME);
    return api->CreateStatus(
        ORT_NOT_IMPLEMENTED,
        ("the vmoe op library needs ONNX Runtime 1." + oldest + " or newer, this is " + version).c_str());
  }
  return vmoe::ort::as_status(*api, "vmoe op library",
                              [&] { check(*api, api->AddCustomOpDomain(options, vmoe::ort::domain_of(*api))); });
}
