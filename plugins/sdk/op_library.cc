#include "sdk/op_library.h"

#include <dlfcn.h>

#include <filesystem>
#include <fstream>
#include <system_error>

namespace vmoe::sdk {

namespace {

constexpr char kName[] = "libvmoe_onnxruntime" VMOE_LIBRARY_SUFFIX;

// Returns a message that states why the op library is missing, and what to do about it. If something was missing on the
// build machine, the build has recorded it in missing.txt.
std::string why_missing(const std::filesystem::path& folder) {
  std::ifstream record(folder / "missing.txt");
  const std::string start = std::string(kName) + ": ";
  for (std::string line; std::getline(record, line);) {
    if (line.rfind(start, 0) == 0) {
      return "the machine that built it lacked " + line.substr(start.size()) +
             "; install that, and build and install again";
    }
  }
  return "copy it from where this library came from, or run cmake --install again";
}

OpLibrary load(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const std::string text = dlerror();
    const bool repeats = text.rfind(path + ": ", 0) == 0;
    return {{}, {}, "the op library " + path + " can't be loaded: " + (repeats ? text.substr(path.size() + 2) : text)};
  }
  const auto cpu_path = reinterpret_cast<const char* (*)()>(dlsym(library, "vmoe_cpu_path"));
  return {path, cpu_path == nullptr ? "unknown path" : cpu_path(), {}};
}

std::filesystem::path find_own_folder() {
  // The system returns the file that contains a given address. The address of any object in this library therefore
  // yields this library's file.
  static const char anchor = 0;
  Dl_info info{};
  if (dladdr(&anchor, &info) == 0 || info.dli_fname == nullptr) return {};
  std::error_code error;
  return std::filesystem::canonical(info.dli_fname, error).parent_path();
}

// Runs when this library is loaded. The folder can't be found reliably later: the library's path may be relative, and
// the process may change its working directory.
__attribute__((constructor)) void find_own_folder_early() { own_folder(); }

}  // namespace

const std::filesystem::path& own_folder() {
  // Never destroyed, because the folder may still be needed while the process is exiting.
  static const auto& folder = *new std::filesystem::path(find_own_folder());
  return folder;
}

const OpLibrary& find_op_library() {
  static const OpLibrary found = [] {
    const std::filesystem::path& folder = own_folder();
    const std::string path = folder / kName;
    std::error_code error;
    if (!folder.empty() && std::filesystem::is_regular_file(path, error)) return load(path);
    return OpLibrary{{}, {}, "there is no op library " + path + ": " + why_missing(folder)};
  }();
  return found;
}

}  // namespace vmoe::sdk
