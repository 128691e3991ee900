// Checks that the TensorRT that loaded the plugin has the same major version as the headers with which the plugin was
// built.
#pragma once

namespace vmoe::tensorrt {

// Returns true if `object`, which was passed by TensorRT, is null or comes from a TensorRT with the same major version
// as the headers. An object from another major version may have a different memory layout, so it must not be used. If
// the versions differ, this library refuses to make plugins.
bool loaded_by_known_major(void* object) noexcept;

// Throws ops::OpError if the major version of the TensorRT that loaded the plugin differs from that of the headers.
void check_tensorrt_major();

}  // namespace vmoe::tensorrt
