#include "sdk/onnxruntime_log.h"

#include <string_view>

#include "sdk/log.h"

namespace vmoe::sdk {

namespace {

// Settings are graph inputs with default values by design: this warning is for those who made the graph by accident.
bool is_about_settings(std::string_view message) {
  return message.find("appears in graph inputs and will not be treated as constant") != std::string_view::npos;
}

// A load has some hundred messages of the severity INFO, which say nothing of what was loaded.
vmoe_log_level level_of(OrtLoggingLevel severity) {
  if (severity >= ORT_LOGGING_LEVEL_ERROR) return VMOE_LOG_ERROR;
  return severity == ORT_LOGGING_LEVEL_WARNING ? VMOE_LOG_WARNING : VMOE_LOG_DEBUG;
}

}  // namespace

OrtLoggingLevel onnxruntime_severity() {
  for (const auto severity : {ORT_LOGGING_LEVEL_INFO, ORT_LOGGING_LEVEL_WARNING, ORT_LOGGING_LEVEL_ERROR}) {
    if (is_logged(level_of(severity))) return severity;
  }
  return ORT_LOGGING_LEVEL_FATAL;
}

void ORT_API_CALL log_of_onnxruntime(void* /*unused*/, OrtLoggingLevel severity, const char* /*category*/,
                                     const char* /*logger*/, const char* /*place*/, const char* message) {
  log(is_about_settings(message) ? VMOE_LOG_DEBUG : level_of(severity), "ONNX Runtime: ", message);
}

}  // namespace vmoe::sdk
