// Which TensorRT has loaded the plugin, and whether it is of the headers' major version.
#pragma once

namespace vmoe::tensorrt {

// Whether `object`, which TensorRT handed over, is null or of the headers' major version. One of another version lies
// otherwise in memory: it must not be touched, and plugins are refused from then on.
bool loaded_by_known_major(void* object) noexcept;

// Throws ops::OpError where a TensorRT of another major version than the headers' has loaded the plugin.
void check_tensorrt_major();

}  // namespace vmoe::tensorrt
