// Finds ONNX Runtime at run time, so that one build works with every supported version and links to none.
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

// Finds and loads ONNX Runtime. If `path` is empty, takes the first of:
// - a library that the process has already loaded;
// - the path in the environment variable VMOE_ONNXRUNTIME;
// - the onnxruntime package in the same Python environment as this library's package;
// - libonnxruntime.so, then libonnxruntime.so.1 (macOS: libonnxruntime.dylib, then libonnxruntime.1.dylib).
//
// Throws VMOE_RUNTIME_ERROR if there is none, or if it is too old.
const OnnxRuntime& find_onnxruntime(const std::string& path);

// Returns the lowest severity of ONNX Runtime messages that the log callback receives now. Without a callback this is
// FATAL: errors come back as values, and log lines would repeat them.
OrtLoggingLevel onnxruntime_severity();

// An OrtLoggingFunction that passes messages to the callback of vmoe_set_log.
void ORT_API_CALL log_of_onnxruntime(void* unused, OrtLoggingLevel severity, const char* category, const char* logger,
                                     const char* place, const char* message);

// Throws VMOE_RUNTIME_ERROR with `what` and ONNX Runtime's message in one line, and frees the status. Does nothing if
// the status is null.
void check(const OrtApi& api, OrtStatus* status, const std::string& what);

}  // namespace vmoe::sdk
