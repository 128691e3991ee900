// Messages for the user. They go to TensorRT's logger if there is one, otherwise to stderr.
#pragma once

#include <NvInferRuntime.h>

namespace vmoe::tensorrt {

// `finder` comes from the TensorRT that loads the plugin. If it is null, messages go to stderr. See loaded_version.h.
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

void log_error(const char* message) noexcept;

}  // namespace vmoe::tensorrt
