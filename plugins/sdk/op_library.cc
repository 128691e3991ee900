#include "sdk/op_library.h"

#include <dlfcn.h>

#include <filesystem>
#include <system_error>

namespace vmoe::sdk {

std::string find_op_library() {
  // Any address of this library tells where it was loaded from.
  static const char anchor = 0;
  Dl_info info{};
  if (dladdr(&anchor, &info) == 0 || info.dli_fname == nullptr) return {};
  std::error_code error;
  const auto folder = std::filesystem::canonical(info.dli_fname, error).parent_path();
  if (error) return {};
  const auto library = folder / "libvmoe_onnxruntime.so";
  return std::filesystem::is_regular_file(library, error) ? library.string() : std::string();
}

std::string cpu_path_of(const std::string& op_library) {
  void* library = dlopen(op_library.c_str(), RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) return {};
  const auto ask = reinterpret_cast<const char* (*)()>(dlsym(library, "vmoe_cpu_path"));
  const char* path = ask == nullptr ? nullptr : ask();
  const std::string name = path == nullptr ? "" : path;
  dlclose(library);
  return name;
}

}  // namespace vmoe::sdk
