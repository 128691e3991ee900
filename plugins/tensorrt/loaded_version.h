// Checks whether the TensorRT that has loaded the plugin has the same major version as the headers that the plugin was
// built with.
#pragma once

namespace vmoe::tensorrt {

// Returns whether `object`, which TensorRT passed, is null or comes from a TensorRT with the major version of the
// headers. An object of another version may have a different memory layout, so it must not be used. This library then
// refuses to make plugins.
bool loaded_by_known_major(void* object) noexcept;

// Throws ops::OpError if the major version of the TensorRT that loaded the plugin differs from that of the headers.
void check_tensorrt_major();

}  // namespace vmoe::tensorrt
