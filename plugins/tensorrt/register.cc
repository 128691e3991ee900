// Registers the plugin's creators with TensorRT when this library is loaded. The library is meant for programs that can
// load a plugin library only with dlopen. It exports no function and consists of one constructor. If the registration
// fails, the constructor prints the reason to stderr.
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

namespace vmoe::tensorrt {
namespace {

using nvinfer1::IPluginCreatorV3One;

constexpr char kPluginLibrary[] = "libvmoe_tensorrt.so";

template <class Function>
Function* find_function(void* library, const char* name, const std::string& owner) {
  void* function = dlsym(library, name);
  if (!function) throw std::runtime_error(owner + " has no function " + name);
  return reinterpret_cast<Function*>(function);
}

// Finds TensorRT's plugin registry. Uses the TensorRT that this process already contains, either as a library or in the
// program itself. If the process contains none, loads the TensorRT that the dynamic loader finds. TensorRT is never
// unloaded, because the creators are registered with it.
nvinfer1::IPluginRegistry& find_registry() {
  std::string name = "libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR);
  void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_NOLOAD);
  if (!library && dlsym(RTLD_DEFAULT, "getPluginRegistry")) {
    name = "the program's TensorRT";
    library = RTLD_DEFAULT;
  } else if (!library) {
    library = dlopen(name.c_str(), RTLD_NOW);
    if (!library)
      throw std::runtime_error(std::string("there is no TensorRT here, and none can be loaded: ") + dlerror());
    std::fprintf(stderr, "vmoe: no TensorRT was loaded yet; loaded %s and registered the plugins with that\n",
                 name.c_str());
  }
  const int32_t major = find_function<int32_t()>(library, "getInferLibMajorVersion", name)();
  if (major != NV_TENSORRT_MAJOR) {
    throw std::runtime_error(name + " is TensorRT " + std::to_string(major) + ", and they were built for TensorRT " +
                             std::to_string(NV_TENSORRT_MAJOR));
  }
  auto* registry = find_function<nvinfer1::IPluginRegistry*()>(library, "getPluginRegistry", name)();
  if (!registry) throw std::runtime_error(name + " has no plugin registry");
  return *registry;
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

void register_all() {
  nvinfer1::IPluginRegistry& registry = find_registry();
  const std::string path = own_folder() + "/" + kPluginLibrary;
  void* library = dlopen(path.c_str(), RTLD_NOW);  // never closed, because the registry keeps the library's creators
  if (!library) throw std::runtime_error(std::string("the plugin library can't be loaded: ") + dlerror());
  int32_t count = 0;
  using GetCreators = nvinfer1::IPluginCreatorInterface* const*(int32_t&);
  nvinfer1::IPluginCreatorInterface* const* creators = find_function<GetCreators>(library, "getCreators", path)(count);
  std::string refused;
  for (int32_t i = 0; i < count; ++i) {
    auto& creator = static_cast<IPluginCreatorV3One&>(*creators[i]);
    const char* name_space = creator.getPluginNamespace();
    if (registry.getCreator(creator.getPluginName(), creator.getPluginVersion(), name_space)) continue;
    if (registry.registerCreator(creator, name_space)) continue;
    refused += (refused.empty() ? "" : ", ") + std::string(creator.getPluginName());
  }
  if (!refused.empty()) throw std::runtime_error("TensorRT's plugin registry refused " + refused);
}

__attribute__((constructor)) void on_load() noexcept {
  try {
    register_all();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "vmoe: plugins not registered: %s\n", error.what());
  }
}

}  // namespace
}  // namespace vmoe::tensorrt
