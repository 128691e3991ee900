// Registers the plugin's creators with TensorRT when this library is loaded, for programs that only dlopen a plugin
// library. It has no function to call: all of it is one constructor, which does its work or says on stderr why not.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <climits>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "tensorrt/interface_layout.h"

namespace vmoe::tensorrt {
namespace {

using nvinfer1::IPluginCreatorInterface;
using nvinfer1::IPluginCreatorV3One;

constexpr char kPluginLibrary[] = "libvmoe_tensorrt.so";
constexpr const char* kTensorRtLibraries[] = {"libnvinfer.so.11", "libnvinfer.so.10"};  // newest first

// One TensorRT of this process.
struct TensorRt {
  std::string name;
  void* library;  // RTLD_DEFAULT where it is part of the program
};

struct Creators {
  IPluginCreatorInterface* const* all;
  int32_t count;
};

void say(const std::string& sentence) { std::fprintf(stderr, "vmoe: %s\n", sentence.c_str()); }

std::string loader_error() {
  const char* error = dlerror();
  return error ? error : "unknown error of the dynamic loader";
}

// The TensorRTs that are here already: under their names, whether their symbols are global or not, or else in the
// program itself. They stay loaded, as creators of this library are registered with them.
std::vector<TensorRt> loaded_tensor_rts() {
  std::vector<TensorRt> found;
  for (const char* name : kTensorRtLibraries) {
    if (void* library = dlopen(name, RTLD_NOW | RTLD_NOLOAD)) found.push_back({name, library});
  }
  if (found.empty() && dlsym(RTLD_DEFAULT, "getPluginRegistry"))
    found.push_back({"the program's TensorRT", RTLD_DEFAULT});
  return found;
}

// The newest TensorRT that the dynamic loader finds. Throws std::runtime_error.
TensorRt open_tensor_rt() {
  std::string errors;
  for (const char* name : kTensorRtLibraries) {
    if (void* library = dlopen(name, RTLD_NOW)) {
      say(std::string("no TensorRT was loaded yet; loaded ") + name + " and registered the plugins with that");
      return {name, library};
    }
    errors += (errors.empty() ? "" : "; ") + loader_error();
  }
  throw std::runtime_error("there is no TensorRT in this process, and none could be loaded: " + errors);
}

std::string own_folder() {
  Dl_info info{};
  char path[PATH_MAX];
  if (dladdr(reinterpret_cast<void*>(&own_folder), &info) == 0 || !realpath(info.dli_fname, path)) {
    throw std::runtime_error("the folder of this library could not be found");
  }
  const std::string file = path;
  return file.substr(0, file.rfind('/'));
}

Creators open_plugin_library() {
  const std::string path = own_folder() + "/" + kPluginLibrary;
  void* library = dlopen(path.c_str(), RTLD_NOW);  // never closed: the registry keeps the creators
  if (!library) throw std::runtime_error("the plugin library can't be loaded: " + loader_error());
  void* function = dlsym(library, "getCreators");
  if (!function) throw std::runtime_error(path + " is no plugin library: " + loader_error());
  Creators creators{};
  creators.all = reinterpret_cast<IPluginCreatorInterface* const* (*)(int32_t&)>(function)(creators.count);
  return creators;
}

// Null for a creator of another interface.
IPluginCreatorV3One* as_v3_one(IPluginCreatorInterface* creator) {
  if (!creator || std::strcmp(creator->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE") != 0) return nullptr;
  return static_cast<IPluginCreatorV3One*>(creator);
}

bool is_registered(IPluginCreatorV3One& creator, IPluginCreatorInterface* const* registered, int32_t count) {
  for (int32_t i = 0; registered && i < count; ++i) {
    IPluginCreatorV3One* other = as_v3_one(registered[i]);
    if (other && std::strcmp(other->getPluginName(), creator.getPluginName()) == 0 &&
        std::strcmp(other->getPluginVersion(), creator.getPluginVersion()) == 0 &&
        std::strcmp(other->getPluginNamespace(), creator.getPluginNamespace()) == 0) {
      return true;
    }
  }
  return false;
}

// Throws std::runtime_error where this TensorRT is not known, or won't take a creator.
void register_creators(const TensorRt& tensorrt, const Creators& creators) {
  void* get_major = dlsym(tensorrt.library, "getInferLibMajorVersion");
  const int32_t major = get_major ? reinterpret_cast<int32_t (*)()>(get_major)() : 0;
  const InterfaceLayout* layout = layout_of(major);
  if (!layout) {
    throw std::runtime_error(tensorrt.name + (major ? " is TensorRT " + std::to_string(major) : " names no version") +
                             "; the plugins are for TensorRT 10 and 11");
  }
  void* get_registry = dlsym(tensorrt.library, "getPluginRegistry");
  void* registry = get_registry ? reinterpret_cast<void* (*)()>(get_registry)() : nullptr;
  if (!registry) throw std::runtime_error(tensorrt.name + " has no plugin registry");

  int32_t registered_count = 0;
  auto* registered =
      call_virtual<IPluginCreatorInterface* const*, int32_t*>(registry, layout->all_creators, &registered_count);
  std::vector<IPluginCreatorV3One*> missing;
  for (int32_t i = 0; i < creators.count; ++i) {
    IPluginCreatorV3One* creator = as_v3_one(creators.all[i]);
    if (creator && !is_registered(*creator, registered, registered_count)) missing.push_back(creator);
  }
  std::string refused;
  for (IPluginCreatorV3One* creator : missing) {
    if (!call_virtual<bool, IPluginCreatorInterface*, const char*>(registry, layout->register_creator, creator,
                                                                   creator->getPluginNamespace())) {
      refused += (refused.empty() ? "" : ", ") + std::string(creator->getPluginName());
    }
  }
  if (!refused.empty()) throw std::runtime_error("the plugin registry of " + tensorrt.name + " refused " + refused);
}

void register_all() {
  std::vector<TensorRt> tensorrts = loaded_tensor_rts();
  if (tensorrts.empty()) tensorrts.push_back(open_tensor_rt());
  const Creators creators = open_plugin_library();
  for (const TensorRt& tensorrt : tensorrts) {
    try {
      register_creators(tensorrt, creators);
    } catch (const std::exception& error) {
      say(std::string("plugins not registered: ") + error.what());
    }
  }
}

__attribute__((constructor)) void on_load() noexcept {
  try {
    register_all();
  } catch (const std::exception& error) {
    say(std::string("plugins not registered: ") + error.what());
  } catch (...) {
    say("plugins not registered: unknown error");
  }
}

}  // namespace
}  // namespace vmoe::tensorrt
