#include "sdk/op_library.h"

#include <dlfcn.h>

#include <filesystem>
#include <system_error>

namespace vmoe::sdk {

namespace {

std::string beside_this_library() {
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

// Why the library can't be loaded; empty if it was.
std::string load_failure(const std::string& path) {
  if (dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL) != nullptr) return {};
  const char* reason = dlerror();
  const std::string text = reason != nullptr ? reason : "unknown reason";
  return text.rfind(path + ": ", 0) == 0 ? text.substr(path.size() + 2) : text;
}

}  // namespace

const OpLibrary& find_op_library() {
  static const OpLibrary found = [] {
    const std::string path = beside_this_library();
    if (path.empty()) return OpLibrary{};
    const std::string failure = load_failure(path);
    return failure.empty() ? OpLibrary{path, {}}
                           : OpLibrary{{}, "the op library " + path + " can't be loaded: " + failure};
  }();
  return found;
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
