// Finds ONNX Runtime at run time, so that one build works with every version that is supported and links none of them.
#pragma once

#include <onnxruntime_c_api.h>

#include <string>

namespace vmoe::sdk {

// A loaded ONNX Runtime; stays loaded until the process ends.
struct OnnxRuntime {
  const OrtApi* api;
  OrtEnv* env;
  std::string version;  // such as "1.32.0"
};

// The library at `path`, or if it is empty the first of: one that is loaded already, the path in the environment
// variable VMOE_ONNXRUNTIME, the onnxruntime that pip installed beside the package of this library, libonnxruntime.so,
// libonnxruntime.so.1; on macOS, libonnxruntime.dylib and libonnxruntime.1.dylib.
//
// Throws VMOE_RUNTIME_ERROR: there is none, or it is too old.
const OnnxRuntime& find_onnxruntime(const std::string& path);

// The least severity of its messages that the callback of vmoe_set_log takes now. Where there is none, FATAL: errors
// come back as values, and log lines would say them twice.
OrtLoggingLevel onnxruntime_severity();

// An OrtLoggingFunction: hands its messages to the callback of vmoe_set_log.
void ORT_API_CALL log_of_onnxruntime(void* unused, OrtLoggingLevel severity, const char* category, const char* logger,
                                     const char* place, const char* message);

// Throws what ONNX Runtime said, after `what`, in one line; frees the status. Returns if it is null.
void check(const OrtApi& api, OrtStatus* status, const std::string& what);

}  // namespace vmoe::sdk
