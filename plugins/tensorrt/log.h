// Messages for the user. They go to TensorRT's logger if one was passed, otherwise to stderr.
#pragma once

#include <NvInferRuntime.h>

namespace vmoe::tensorrt {

// `finder` comes from the TensorRT that loads the plugin; null means stderr. See loaded_version.h.
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

void log_error(const char* message) noexcept;

}  // namespace vmoe::tensorrt
