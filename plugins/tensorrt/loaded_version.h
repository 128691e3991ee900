// Checks whether the TensorRT that has loaded the plugin has the major version of the headers.
#pragma once

namespace vmoe::tensorrt {

// Whether `object`, which TensorRT passed, is null or has the major version of the headers. An object of another
// version has a different memory layout: it must not be touched, and plugins are refused from then on.
bool loaded_by_known_major(void* object) noexcept;

// Throws ops::OpError if a TensorRT of another major version than the headers' has loaded the plugin.
void check_tensorrt_major();

}  // namespace vmoe::tensorrt
