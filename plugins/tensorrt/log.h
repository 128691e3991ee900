// Messages for the user: to TensorRT's logger where one was handed over, else to stderr.
#pragma once

#include <NvInferRuntime.h>

namespace vmoe::tensorrt {

// `finder` is of the TensorRT that loads the plugin, or null for stderr. One of another major version than the headers'
// lies otherwise in memory: it is not touched, and plugins are refused from then on.
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

// Throws ops::OpError where a TensorRT of another major version than the headers' has loaded the plugin.
void check_tensorrt_major();

void log_error(const char* message) noexcept;

}  // namespace vmoe::tensorrt
