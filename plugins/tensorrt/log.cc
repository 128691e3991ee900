#include "tensorrt/log.h"

#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <mutex>

#include "tensorrt/interface_layout.h"

namespace vmoe::tensorrt {
namespace {

constexpr int32_t kErrorSeverity = 1;  // ILogger::Severity::kERROR

struct Logger {
  std::mutex mutex;
  void* finder = nullptr;
  const InterfaceLayout* layout = nullptr;
};

// Never destroyed: a plugin may still be told to go away while the process exits.
Logger& get_logger() {
  static auto* state = new Logger;
  return *state;
}

// The major version of the TensorRT that made `object`: the one that its virtual table's library is or uses. 0 for
// none.
int major_behind(void* object) {
  Dl_info info{};
  void* library = nullptr;
  if (dladdr(*static_cast<void**>(object), &info) != 0 && info.dli_fname) {
    library = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  }
  // Without one, the program itself and what it is linked with.
  void* function = dlsym(library ? library : RTLD_DEFAULT, "getInferLibMajorVersion");
  const int major = function ? reinterpret_cast<int32_t (*)()>(function)() : 0;
  if (library) dlclose(library);
  return major;
}

// False where there is no logger, or where it throws.
bool give_to_logger(const char* line) noexcept {
  try {
    Logger& state = get_logger();
    void* finder = nullptr;
    const InterfaceLayout* layout = nullptr;
    {
      const std::lock_guard<std::mutex> lock(state.mutex);
      finder = state.finder;
      layout = state.layout;
    }
    void* logger = finder ? call_virtual<void*>(finder, layout->find_logger) : nullptr;
    if (!logger) return false;
    call_virtual<void, int32_t, const char*>(logger, layout->log, kErrorSeverity, line);
    return true;
  } catch (...) {
    return false;
  }
}

}  // namespace

void set_logger_finder(void* finder) noexcept {
  try {
    const InterfaceLayout* layout = finder ? layout_of(major_behind(finder)) : nullptr;
    {
      Logger& state = get_logger();
      const std::lock_guard<std::mutex> lock(state.mutex);
      state.finder = layout ? finder : nullptr;
      state.layout = layout;
    }
    if (finder && !layout) log_error("the logger is of no TensorRT 10 or 11, so messages go to stderr");
  } catch (...) {
    std::fputs("vmoe: the logger could not be set\n", stderr);
  }
}

void log_error(const char* sentence) noexcept {
  char line[1024];
  std::snprintf(line, sizeof(line), "vmoe: %s", sentence);
  if (!give_to_logger(line)) std::fprintf(stderr, "%s\n", line);
}

}  // namespace vmoe::tensorrt
