// Finds ONNX Runtime while the program is running. This library is therefore not linked to a particular version of ONNX
// Runtime, and one build works with every supported version.
#pragma once

#include <onnxruntime_c_api.h>

#include <string>

namespace vmoe::sdk {

// A loaded ONNX Runtime. It stays loaded until the process ends.
struct OnnxRuntime {
  const OrtApi* api;
  OrtEnv* env;
  std::string version;  // such as "1.32.0"
};

// Loads ONNX Runtime from `path`. If `path` is empty, uses the first of these that exists:
// - a library that the process has already loaded;
// - the path in the environment variable VMOE_ONNXRUNTIME;
// - the onnxruntime package in the same Python environment as this library's package;
// - libonnxruntime.so, then libonnxruntime.so.1 (macOS: libonnxruntime.dylib, then libonnxruntime.1.dylib).
//
// Throws VMOE_RUNTIME_ERROR if ONNX Runtime is not found, or if its version is too old.
const OnnxRuntime& find_onnxruntime(const std::string& path);

// Returns the lowest severity of ONNX Runtime messages that currently reach the log callback. If no callback is set,
// returns FATAL. Errors are also returned to the caller, so log lines would only repeat them.
OrtLoggingLevel onnxruntime_severity();

// An OrtLoggingFunction that passes ONNX Runtime's messages to the callback of vmoe_set_log.
void ORT_API_CALL log_of_onnxruntime(void* unused, OrtLoggingLevel severity, const char* category, const char* logger,
                                     const char* place, const char* message);

// Does nothing if the status is null. Otherwise, frees the status and throws VMOE_RUNTIME_ERROR. The error message is
// one line that consists of `what` and ONNX Runtime's message.
void check(const OrtApi& api, OrtStatus* status, const std::string& what);

}  // namespace vmoe::sdk
