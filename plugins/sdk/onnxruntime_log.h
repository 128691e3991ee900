// ONNX Runtime's own messages, for the callback of vmoe_set_log.
#ifndef VMOE_SDK_ONNXRUNTIME_LOG_H_
#define VMOE_SDK_ONNXRUNTIME_LOG_H_

#include <onnxruntime_c_api.h>

namespace vmoe::sdk {

// The least severity that the callback takes now. Where there is none, FATAL: errors come back as values, and log lines
// would say them twice.
OrtLoggingLevel onnxruntime_severity();

// An OrtLoggingFunction.
void ORT_API_CALL log_of_onnxruntime(void* unused, OrtLoggingLevel severity, const char* category, const char* logger,
                                     const char* place, const char* message);

}  // namespace vmoe::sdk

#endif  // VMOE_SDK_ONNXRUNTIME_LOG_H_
