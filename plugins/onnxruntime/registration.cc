// The entry point: adds the domain `vmoe` to a session's options.
#include <onnxruntime_c_api.h>

#include <map>
#include <mutex>

#include "onnxruntime/op.h"
#include "onnxruntime/ort_error.h"

namespace vmoe::ort {
namespace {

// The domain of one ONNX Runtime; a process may hold several. Sessions refer to it for as long as the process lives.
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

void register_domain(const OrtApi& api, OrtSessionOptions* options) {
  check(api, api.AddCustomOpDomain(options, domain_of(api)));
}

}  // namespace
}  // namespace vmoe::ort

extern "C" __attribute__((visibility("default"))) OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                                                            const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(vmoe::ort::kOrtApiVersion);
  if (api == nullptr) {
    // Of every version's OrtApi, the first entry makes a status.
    api = base->GetApi(1);
    if (api == nullptr) return nullptr;
    const std::string version = base->GetVersionString();
    return api->CreateStatus(ORT_NOT_IMPLEMENTED,
                             ("the vmoe op library needs ONNX Runtime 1.21 or newer, this is " + version).c_str());
  }
  return vmoe::ort::as_status(*api, "vmoe op library", [&] { vmoe::ort::register_domain(*api, options); });
}
