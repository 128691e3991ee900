// Errors are exceptions inside the library. At its boundary, they are converted to statuses.
#pragma once

#include <onnxruntime_c_api.h>

#include <exception>
#include <new>
#include <stdexcept>
#include <string>

#include "ops/op_spec.h"

namespace vmoe::ort {

// An error that ONNX Runtime or CUDA reports. It contains the code for the status that it is converted to.
class StatusError : public std::runtime_error {
 public:
  explicit StatusError(const std::string& message, OrtErrorCode code = ORT_FAIL)
      : std::runtime_error(message), code_(code) {}
  OrtErrorCode code() const { return code_; }

 private:
  OrtErrorCode code_;
};

// Does nothing if the status is null. Otherwise, releases the status and throws StatusError with its message and code.
inline void check(const OrtApi& api, OrtStatus* status) {
  if (status == nullptr) return;
  const StatusError error(api.GetErrorMessage(status), api.GetErrorCode(status));
  api.ReleaseStatus(status);
  throw error;
}

// Runs `body` and returns null. If `body` throws an exception, returns a status whose message begins with `name`.
template <class Body>
OrtStatus* as_status(const OrtApi& api, const std::string& name, Body&& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const ops::OpError& error) {
    return api.CreateStatus(ORT_INVALID_ARGUMENT, (name + ": " + error.what()).c_str());
  } catch (const StatusError& error) {
    return api.CreateStatus(error.code(), (name + ": " + error.what()).c_str());
  } catch (const std::bad_alloc&) {
    return api.CreateStatus(ORT_FAIL, "not enough memory for a vmoe op");
  } catch (const std::exception& error) {
    return api.CreateStatus(ORT_FAIL, error.what());
  } catch (...) {
    return api.CreateStatus(ORT_FAIL, "a vmoe op failed");
  }
}

}  // namespace vmoe::ort
