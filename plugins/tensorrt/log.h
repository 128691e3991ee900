// Messages for the user: to TensorRT's logger where one was handed over, else to stderr.
#pragma once

#include <NvInferRuntime.h>

namespace vmoe::tensorrt {

// `finder` is of the TensorRT that loads the plugin, or null for stderr; see loaded_version.h.
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

void log_error(const char* message) noexcept;

}  // namespace vmoe::tensorrt
