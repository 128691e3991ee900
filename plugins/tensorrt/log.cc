#include "tensorrt/log.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <string>

#include "ops/op_spec.h"

namespace vmoe::tensorrt {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};
std::atomic<int32_t> loaded_by{NV_TENSORRT_MAJOR};

// The major version of the library that `object`'s virtual table lies in, or else of the program's; 0 for none.
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

// False where there is no logger, or where it throws.
bool give_to_logger(const char* line) noexcept {
  try {
    nvinfer1::ILoggerFinder* finder = logger_finder;
    nvinfer1::ILogger* logger = finder ? finder->findLogger() : nullptr;
    if (logger) logger->log(nvinfer1::ILogger::Severity::kERROR, line);
    return logger != nullptr;
  } catch (...) {
    return false;
  }
}

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept {
  const int32_t major = finder ? major_behind(finder) : NV_TENSORRT_MAJOR;
  logger_finder = major == NV_TENSORRT_MAJOR ? finder : nullptr;
  loaded_by = major == 0 ? NV_TENSORRT_MAJOR : major;  // of a library that doesn't say, messages go to stderr
}

void check_tensorrt_major() {
  if (loaded_by == NV_TENSORRT_MAJOR) return;
  throw ops::OpError("the plugin was built for TensorRT " + std::to_string(NV_TENSORRT_MAJOR) + ", and TensorRT " +
                     std::to_string(loaded_by) + " has loaded it; build it again with the headers of that version");
}

void log_error(const char* message) noexcept {
  char line[1024];
  std::snprintf(line, sizeof(line), "vmoe: %s", message);
  if (!give_to_logger(line)) std::fprintf(stderr, "%s\n", line);
}

}  // namespace vmoe::tensorrt
