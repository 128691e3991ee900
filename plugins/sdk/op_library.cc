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

std::string op_library_cpu_path(const std::string& library) {
  void* handle = dlopen(library.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  if (handle == nullptr) return "unknown path";
  using Name = const char* (*)();
  const auto name = reinterpret_cast<Name>(dlsym(handle, "vmoe_cpu_path"));
  const std::string path = name == nullptr ? "unknown path" : name();
  dlclose(handle);
  return path;
}

}  // namespace vmoe::sdk
