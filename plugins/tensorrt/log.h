// Messages for the user. They go to TensorRT's logger if there is one, and otherwise to stderr.
#pragma once

#include <NvInferRuntime.h>

namespace vmoe::tensorrt {

// Sets the object that finds TensorRT's logger. `finder` comes from the TensorRT that loads the plugin. Messages go to
// stderr if `finder` is null, or if the major version of that TensorRT differs from the headers' version. See
// loaded_version.h.
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

void log_error(const char* message) noexcept;

}  // namespace vmoe::tensorrt
