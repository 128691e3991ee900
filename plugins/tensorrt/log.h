// Sentences for the user: to TensorRT's logger where one was handed over, else to stderr.
#pragma once

namespace vmoe::tensorrt {

// `finder` is an ILoggerFinder of whichever TensorRT loads the plugin, or null for stderr.
void set_logger_finder(void* finder) noexcept;

void log_error(const char* sentence) noexcept;

}  // namespace vmoe::tensorrt
