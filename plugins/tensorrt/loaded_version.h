// Checks whether the TensorRT that has loaded the plugin has the major version of the headers.
#pragma once

namespace vmoe::tensorrt {

// Returns whether `object`, which TensorRT passed, is null or has the major version of the headers. An object of
// another version has a different memory layout, so it must not be used, and this library then refuses to make plugins.
bool loaded_by_known_major(void* object) noexcept;

// Throws ops::OpError if the TensorRT that loaded the plugin has another major version than the headers.
void check_tensorrt_major();

}  // namespace vmoe::tensorrt
