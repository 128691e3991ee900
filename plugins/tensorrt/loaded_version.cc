#include "tensorrt/loaded_version.h"

#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <atomic>
#include <cstdint>
#include <string>

#include "ops/op_spec.h"

namespace vmoe::tensorrt {
namespace {

std::atomic<int32_t> loaded_by{NV_TENSORRT_MAJOR};

// Returns the major version of the TensorRT library that contains the virtual table of `object`. If no library contains
// the table, returns the version of the TensorRT that is linked into the program. Returns 0 if the version is unknown.
int32_t major_behind(void* object) {
  Dl_info info{};
  void* library = nullptr;
  if (dladdr(*static_cast<void**>(object), &info) != 0 && info.dli_fname) {
    library = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  }
  void* function = dlsym(library ? library : RTLD_DEFAULT, "getInferLibMajorVersion");
  const int32_t major = function ? reinterpret_cast<int32_t (*)()>(function)() : 0;
  if (library) dlclose(library);
  return major;
}

}  // namespace

bool loaded_by_known_major(void* object) noexcept {
  const int32_t major = object ? major_behind(object) : NV_TENSORRT_MAJOR;
  loaded_by = major == 0 ? NV_TENSORRT_MAJOR : major;  // if unknown, plugins can be made, but messages go to stderr
  return major == NV_TENSORRT_MAJOR;
}

void check_tensorrt_major() {
  if (loaded_by == NV_TENSORRT_MAJOR) return;
  throw ops::OpError("the plugin was built for TensorRT " + std::to_string(NV_TENSORRT_MAJOR) + ", and TensorRT " +
                     std::to_string(loaded_by) + " has loaded it; build it again with the headers of that version");
}

}  // namespace vmoe::tensorrt
