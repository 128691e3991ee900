#include "onnxruntime/ort_error.h"

namespace vmoe::ort {

void check(const OrtApi& api, OrtStatus* status) {
  if (status == nullptr) return;
  const OrtErrorCode code = api.GetErrorCode(status);
  const std::string message = api.GetErrorMessage(status);
  api.ReleaseStatus(status);
  throw StatusError(message, code);
}

}  // namespace vmoe::ort
